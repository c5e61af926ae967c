// What the page at /room shows of the chat: its lines, and who is here. Whatever comes from the server gets
// into the page as text, never as HTML.

import { byId, count, filled } from "/static/ws_support/demo_page.js";

const MAX_LINES = 300;
const SAME_MOMENT = 5 * 60_000; // Messages of one sender within these milliseconds stand together.
const MAX_NAME = 80; // The rules are for messages, and not for what pages say of themselves.
const COLOURS = 6; // of avatars, in room.css

const TIME = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });
const DAY_AND_TIME = new Intl.DateTimeFormat("en-GB", { weekday: "short", hour: "2-digit", minute: "2-digit" });
const WHOLE_TIME = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "medium" });

/** The lines of the chat, the newest last. */
export class ChatLog {
  #list = byId("lines");
  #lines = new Map(); // by the position of their message; null for what is in no history
  #browser;

  /** `browser` is the one whose messages are those of this page. */
  constructor(browser) {
    this.#browser = browser;
  }

  /** Say that messages of the history are still to come. */
  set isBusy(isBusy) {
    byId("scroller").ariaBusy = String(isBusy);
  }

  add({ position, data }) {
    if (position !== null && this.#lines.has(position)) return;
    const line = this.#newLine(position, data);
    this.#list.append(line);
    this.#group(line);
    this.#trim();
  }

  /** Add a line of the page itself. Return it. */
  note(text) {
    const line = filled("noteLine", { text }).firstElementChild;
    this.#list.append(line);
    this.#trim();
    return line;
  }

  /** Put each message of the history in its place, behind the line `after`, unless it is there already. */
  merge(messages, after = null) {
    let last = after?.isConnected ? after : null;
    for (const { position, data } of messages) {
      let line = this.#lines.get(position);
      if (!line) {
        line = this.#newLine(position, data);
        if (last) last.after(line);
        else this.#list.prepend(line);
      }
      last = line;
    }
    for (const line of this.#lines.values()) this.#group(line);
    this.#trim();
  }

  /** Show the newest line, also to a reader who has scrolled up. */
  showNewest() {
    byId("scroller").scrollTop = 0; // It is laid out from its end.
  }

  #newLine(position, data) {
    const { browser, name, text, time } = messageOf(data);
    const line = filled("messageLine", { initial: initialOf(name), name, text }).firstElementChild;
    showTime(line.querySelector("time"), time);
    line.querySelector(".avatar").dataset.colour = colourOf(browser || name);
    line.classList.toggle("mine", browser === this.#browser);
    Object.assign(line.dataset, { position, sender: `${browser} ${name}`, time: time ?? "" });
    this.#lines.set(position, line);
    return line;
  }

  /** Show the name once for messages that stand together. Screen readers hear it each time. */
  #group(line) {
    const { sender, time } = line.dataset;
    const before = line.previousElementSibling?.dataset;
    const isSame = before?.sender === sender && time - before.time < SAME_MOMENT;
    line.classList.toggle("follows", isSame);
  }

  #trim() {
    while (this.#list.childElementCount > MAX_LINES) {
      const oldest = this.#list.firstElementChild;
      this.#lines.delete(oldest.dataset.position);
      oldest.remove();
    }
  }
}

/** Show who is here: the tabs of one browser are one person. */
export function showPeople(members, browser) {
  const people = new Map();
  for (const { key, entries } of members) {
    const { browser: its, name } = entries.at(-1) ?? {};
    people.set(textOf(its, key), textOf(name, "").slice(0, MAX_NAME));
  }
  const lines = [...people].map(([each, name]) => {
    const isMe = each === browser;
    const fields = { initial: initialOf(name), name: name || "Somebody", rest: restOf(name, isMe) };
    const line = filled("personLine", fields);
    line.querySelector(".avatar").dataset.colour = colourOf(each);
    return line;
  });
  byId("people").replaceChildren(...lines);
  byId("peopleCount").textContent = people.size === 1 ? "1 person" : `${people.size} people`;
}

/** Return what to say of messages that were missed, or null. */
export function missedNote(missed, downtime) {
  if (missed > 0) {
    return `${count(missed, "message")} while you were away${downtime === null ? "" : ` (${downtime})`}`;
  }
  return downtime === null ? null : `Connected again after ${downtime}: nothing was missed`;
}

function restOf(name, isMe) {
  if (isMe) return name ? "(you)" : "(you, without a name)";
  return name ? "" : "(without a name)";
}

/** Return the parts of a message. One that was published by code on the server may be anything. */
function messageOf(data) {
  const { browser, name, text, time } = Object(data);
  return {
    browser: textOf(browser, ""),
    name: textOf(name, "The server"),
    text: textOf(text, typeof data === "string" ? data : JSON.stringify(data)),
    time: Number.isNaN(new Date(time).getTime()) ? null : time,
  };
}

function textOf(value, otherwise) {
  return typeof value === "string" ? value : otherwise;
}

function showTime(element, time) {
  if (time === null) {
    element.remove();
    return;
  }
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  element.textContent = (isToday ? TIME : DAY_AND_TIME).format(date);
  element.dateTime = date.toISOString();
  element.title = WHOLE_TIME.format(date);
}

function initialOf(name) {
  return [...name.trim()][0]?.toUpperCase() ?? "?";
}

function colourOf(text) {
  let sum = 0;
  for (const each of text) sum = (sum * 31 + each.codePointAt(0)) % 997;
  return sum % COLOURS;
}
