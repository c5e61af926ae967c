// The demo page: one socket at a time, and a log of every step that it takes.
// Whatever comes from a peer or a file gets into the page as text, never as HTML.

byId("scriptNotice").remove();

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

// By WebSocket.readyState.
const STATES = [
  { name: "connecting", label: "Connecting..." },
  { name: "open", label: "Open" },
  { name: "closing", label: "Closing..." },
  { name: "closed", label: "Closed" },
];

const GOOD_CLOSE_CODES = [1000, 1001];
const CLOSE_CODES = {
  1000: "normal closure",
  1001: "going away",
  1002: "protocol error",
  1003: "unsupported data",
  1005: "no code given",
  1006: "lost without a close frame",
  1007: "invalid data",
  1008: "policy violation",
  1009: "message too big",
  1011: "server error",
  1012: "server restarts",
  1013: "try again later",
  1014: "bad gateway",
  3000: "unauthorized",
  3003: "forbidden",
  3008: "timeout",
};

class DemoPage {
  #log;
  #socket = null;
  #hasOpened = false;
  #sendTimes = []; // of the messages whose echo has not come yet; echoes come in order

  constructor(log) {
    this.#log = log;
    onSubmit("connectForm", () => this.#connect());
    onSubmit("messageForm", () => this.#sendText());
    onSubmit("fileForm", () => this.#sendFile());
    byId("closeButton").addEventListener("click", () => this.#close());
    byId("connectionUrl").value = echoUrl(byId("connectionUrl").dataset.path);
  }

  #connect() {
    if (this.#socket && this.#socket.readyState !== WebSocket.CLOSED) return;
    const field = byId("connectionUrl");
    showError(field);
    try {
      this.#socket = openSocket(field.value.trim());
    } catch (error) {
      showError(field, explainUrlError(error));
      field.focus();
      return;
    }
    this.#hasOpened = false;
    this.#sendTimes = [];
    this.#listen("open", () => this.#handleOpen());
    this.#listen("message", (event) => this.#handleMessage(event));
    this.#listen("close", (event) => this.#handleClose(event));
    this.#showState();
  }

  // An earlier socket may still have something to say, which is no business of this connection.
  #listen(type, handler) {
    const socket = this.#socket;
    socket.addEventListener(type, (event) => {
      if (socket === this.#socket) handler(event);
    });
  }

  #handleOpen() {
    this.#hasOpened = true;
    this.#showState();
    this.#log.addEvent("Connection opened");
    rescueFocus(byId("sendMessage"));
  }

  #handleMessage({ data }) {
    const sendTime = this.#sendTimes.shift();
    // A server that is no echo also sends what nobody asked for.
    const isEcho = sendTime !== undefined;
    this.#log.addReceived(data, isEcho ? `${(performance.now() - sendTime).toFixed(1)} ms` : "");
  }

  #handleClose({ code, reason }) {
    // A connection that never opened has 1006.
    const isGood = GOOD_CLOSE_CODES.includes(code);
    this.#showState(isGood ? undefined : code);
    this.#log.addEvent(closingLine(code, reason, this.#hasOpened), isGood ? "good" : "bad");
    if (!this.#hasOpened) {
      const { url } = this.#socket;
      showError(byId("connectionUrl"), filled("neverOpened", { url, origin: location.origin }));
    }
    rescueFocus(byId("connectButton"));
  }

  #sendText() {
    const message = byId("sendMessage");
    this.#send(message.value);
    message.select();
  }

  async #sendFile() {
    const field = byId("sendFile");
    const [file] = field.files;
    showError(field, file ? "" : "Choose a file first.");
    if (!file) return field.focus();
    const socket = this.#socket;
    const content = await file.arrayBuffer().catch((error) => {
      showError(field, `The browser cannot read ${file.name}: ${error.message}`);
    });
    if (content && socket === this.#socket) this.#send(content);
  }

  #send(data) {
    // A close from the server changes the state some time before the event that tells.
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    this.#log.addSent(data);
    this.#sendTimes.push(performance.now());
    this.#socket.send(data);
  }

  #close() {
    this.#socket.close(1000, "Closing from client");
    this.#showState();
  }

  #showState(badCode) {
    const { name, label } = STATES[this.#socket.readyState];
    byId("stateLabel").textContent = badCode ? `${label} (${badCode})` : label;
    byId("stateLabel").dataset.state = badCode ? "bad" : name;
    for (const control of document.querySelectorAll("[data-enabled-in]")) {
      control.disabled = !control.dataset.enabledIn.split(" ").includes(name);
    }
  }
}

class CommunicationLog {
  #rows = byId("commsLog");
  #announcer = new Announcer(byId("announcement"));
  #dropped = 0;

  addEvent(event, kind = "good") {
    this.#add(kind, filled("eventLine", { time: TIME_OF_DAY.format(), event }), event);
  }

  addSent(data) {
    this.#addMessage("sent", { from: "Client", to: "Server", roundTrip: "" }, data, "Sent");
  }

  addReceived(data, roundTrip) {
    const what = roundTrip ? `Received after ${roundTrip}` : "Received";
    this.#addMessage("received", { from: "Server", to: "Client", roundTrip }, data, what);
  }

  #addMessage(direction, way, data, what) {
    const describe = typeof data === "string" ? describeText : describeBinary;
    const { inShort, ...fields } = describe(data);
    const line = filled("messageLine", { time: TIME_OF_DAY.format(), ...way, ...fields });
    this.#add(direction, line, `${what}: ${inShort}`);
  }

  #add(kind, line, summary) {
    line.firstElementChild.classList.add(kind);
    this.#rows.append(line);
    if (this.#rows.childElementCount > MAX_LINES) {
      this.#rows.firstElementChild.remove();
      this.#dropped += 1;
      byId("droppedNote").textContent =
        `The last ${MAX_LINES} lines; ${count(this.#dropped, "older one")} dropped`;
    }
    byId("lastEvent").textContent = summary;
    byId("lastEvent").className = kind;
    this.#announcer.announce(summary);
  }
}

/** Tells screen readers what is new, at most once a second: a busy socket must not drown them. */
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

function echoUrl(path) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
}

function openSocket(url) {
  // Newer browsers also take http:// and relative addresses; older ones throw this error.
  if (!/^wss?:\/\//i.test(url)) throw new SyntaxError(url);
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  return socket;
}

function explainUrlError(error) {
  return error.name === "SyntaxError"
    ? "This is not the address of a WebSocket. Write ws://host:port/path, or wss:// for TLS," +
        " without # and with a port up to 65535."
    : `The browser does not open this address: ${error.message}`;
}

function closingLine(code, reason, hasOpened) {
  const meaning = hasOpened ? CLOSE_CODES[code] : "never opened";
  const explained = meaning ? `${code} (${meaning})` : code;
  return `Connection closed. Code: ${explained}. Reason: ${reason || "none given"}`;
}

function describeText(text) {
  const size = byteSize(new TextEncoder().encode(text).length);
  // Half of a surrogate pair is no character.
  const start = text.slice(0, PREVIEW_CHARACTERS).replace(/[\uD800-\uDBFF]$/, "");
  const preview = start.split("\n", PREVIEW_LINES).join("\n");
  const rest = text ? more(text.length - preview.length, "character") : "empty";
  return { type: "text", size, preview, rest, inShort: preview || "empty text" };
}

function describeBinary(buffer) {
  const size = byteSize(buffer.byteLength);
  const bytes = new Uint8Array(buffer, 0, Math.min(buffer.byteLength, PREVIEW_BYTES));
  const preview = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const rest = buffer.byteLength ? more(buffer.byteLength - bytes.length, "byte") : "empty";
  return { type: "binary", size, preview, rest, inShort: `${size} of binary` };
}

function more(number, unit) {
  return number > 0 ? `... and ${count(number, `more ${unit}`)}` : "";
}

function count(number, thing) {
  return `${number.toLocaleString("en")} ${thing}${number === 1 ? "" : "s"}`;
}

function byteSize(bytes) {
  return `${bytes.toLocaleString("en")} B`;
}

/** What the page has under this id in a `<template>`, with these texts in its fields. */
function filled(templateId, texts) {
  const content = byId(templateId).content.cloneNode(true);
  for (const [field, text] of Object.entries(texts)) {
    content.querySelector(`[data-field="${field}"]`).textContent = text;
  }
  return content;
}

/** Show this text or node in the field's own place for errors; none: the field is in order. */
function showError(field, error = "") {
  byId(field.getAttribute("aria-describedby")).replaceChildren(error);
  field.setAttribute("aria-invalid", String(error !== ""));
}

/** Focus `element` if what had the focus was disabled: else the user would start at the top. */
function rescueFocus(element) {
  const active = document.activeElement;
  if (!active || active === document.body || active.disabled) element.focus();
}

function onSubmit(formId, handler) {
  byId(formId).addEventListener("submit", (event) => {
    event.preventDefault();
    handler();
  });
}

function byId(id) {
  return document.getElementById(id);
}

new DemoPage(new CommunicationLog());
