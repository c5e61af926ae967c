// The log of the demo page: every step, as rows, for screen readers and as a file.

import { byId, byteSize, count, filled, saved } from "./demo_page.js";

const MAX_LINES = 500;
const PREVIEW_CHARACTERS = 200;
const PREVIEW_LINES = 10;
const PREVIEW_BYTES = 48;
const ANNOUNCEMENT_INTERVAL = 1000; // milliseconds

const TIME_OF_DAY = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
});

export class CommunicationLog {
  #rows = byId("commsLog");
  #announcer = new Announcer(byId("announcement"));
  #entries = []; // one for each row
  #dropped = 0;

  constructor() {
    byId("downloadButton").addEventListener("click", () => this.#download());
  }

  addEvent(event, kind = "good") {
    const line = (time) => filled("eventLine", { time, event });
    this.#add(kind, line, { event }, event);
  }

  addSent(data, note = "") {
    this.#addMessage("sent", { from: "Client", to: "Server", roundTrip: note }, data, "Sent");
  }

  addReceived(data, roundTrip) {
    const what = roundTrip ? `Received after ${roundTrip}` : "Received";
    this.#addMessage("received", { from: "Server", to: "Client", roundTrip }, data, what);
  }

  #addMessage(direction, way, data, what) {
    const describe = typeof data === "string" ? describeText : describeBinary;
    const { inShort, ...fields } = describe(data);
    const line = (time) => filled("messageLine", { time, ...way, ...fields });
    this.#add(direction, line, { ...way, ...fields }, `${what}: ${inShort}`);
  }

  #add(kind, lineAt, entry, summary) {
    const now = new Date();
    const line = lineAt(TIME_OF_DAY.format(now));
    line.firstElementChild.classList.add(kind);
    this.#rows.append(line);
    this.#entries.push({ time: now.toISOString(), kind, ...entry });
    if (this.#entries.length > MAX_LINES) {
      this.#rows.firstElementChild.remove();
      this.#entries.shift();
      this.#dropped += 1;
      byId("droppedNote").textContent =
        `The last ${MAX_LINES} lines; ${count(this.#dropped, "older one")} dropped`;
    }
    byId("downloadButton").disabled = false;
    byId("lastEvent").textContent = summary;
    byId("lastEvent").className = kind;
    this.#announcer.announce(summary);
  }

  #download() {
    const log = { page: location.href, dropped: this.#dropped, lines: this.#entries };
    saved("websocket-log.json", JSON.stringify(log, null, 2), "application/json");
  }
}

/** Announces new rows to screen readers, at most once a second: a busy socket must not flood them. */
class Announcer {
  #region;
  #news = [];

  constructor(region) {
    this.#region = region;
  }

  announce(text) {
    this.#news.push(text);
    if (this.#news.length === 1) setTimeout(() => this.#speak(), ANNOUNCEMENT_INTERVAL);
  }

  #speak() {
    const news = this.#news.splice(0);
    this.#region.textContent =
      news.length > 3 ? `${news.length} new lines. The last: ${news.at(-1)}` : news.join(". ");
  }
}

function describeText(text) {
  const size = byteSize(text);
  // Half of a surrogate pair is not a character.
  const start = text.slice(0, PREVIEW_CHARACTERS).replace(/[\uD800-\uDBFF]$/, "");
  const preview = start.split("\n", PREVIEW_LINES).join("\n");
  const rest = text ? more(text.length - preview.length, "character") : "empty";
  return { type: "text", size: inBytes(size), preview, rest, inShort: preview || "empty text" };
}

function describeBinary(buffer) {
  const size = inBytes(buffer.byteLength);
  const bytes = new Uint8Array(buffer, 0, Math.min(buffer.byteLength, PREVIEW_BYTES));
  const preview = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const rest = buffer.byteLength ? more(buffer.byteLength - bytes.length, "byte") : "empty";
  return { type: "binary", size, preview, rest, inShort: `${size} of binary` };
}

function more(number, unit) {
  return number > 0 ? `... and ${count(number, `more ${unit}`)}` : "";
}

export function inBytes(bytes) {
  return `${bytes.toLocaleString("en")} B`;
}
