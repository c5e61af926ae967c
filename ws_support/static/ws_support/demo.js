// The demo page: one socket at a time, which reconnects when it is lost, and a log of every step.

import { ReliableWebSocket, pageSettings } from "./client.js";
import { CommunicationLog, inBytes } from "./demo_log.js";
import {
  byId,
  byteSize,
  count,
  filled,
  inSeconds,
  onSubmit,
  rescueFocus,
  sendOnEnter,
  showError,
} from "./demo_page.js";
import { RoundTrips } from "./demo_plot.js";

byId("scriptNotice").remove();

const MIN_DELAY = 1_000; // all in milliseconds
const MAX_DELAY = 10_000;
const HEARTBEAT_INTERVAL = 1_000;
const COUNTDOWN_INTERVAL = 100;
const MAX_FIRST_ATTEMPTS = 3;

const HEARTBEAT_MESSAGE = "\x05"; // ENQ

// The message that asks the server of this page to close the connection: EOT, end of transmission.
const CUT = "\x04";

const STATES = {
  connecting: "Connecting...",
  reconnecting: "Reconnecting...",
  open: "Open",
  closing: "Closing...",
  closed: "Closed",
};

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
  #roundTrips;
  #sent = new Counter(byId("sentCount"));
  #received = new Counter(byId("receivedCount"));
  #socket = null;
  #hasOpened = false;
  #isOurs = false; // true if the socket goes to the server of this page
  #waiting = null; // the `reconnecting` event of the next attempt
  #countdown;
  #sendTimes = []; // of the messages without an echo so far; echoes come in order

  constructor(log, roundTrips) {
    this.#log = log;
    this.#roundTrips = roundTrips;
    onSubmit("connectForm", () => this.#connect());
    onSubmit("messageForm", () => this.#sendText());
    sendOnEnter(byId("sendMessage"));
    onSubmit("fileForm", () => this.#sendFile());
    onSubmit("closeForm", () => this.#close());
    byId("cutButton").addEventListener("click", () => this.#socket.send(CUT));
    byId("retryButton").addEventListener("click", () => this.#socket.reconnect());
    byId("connectionUrl").value = this.#ownUrl;
  }

  get #ownUrl() {
    const url = new URL(byId("connectionUrl").dataset.path, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    return url.href;
  }

  #connect() {
    if (this.#socket && this.#socket.readyState !== WebSocket.CLOSED) return;
    const field = byId("connectionUrl");
    const offered = byId("subprotocols");
    showError(field);
    showError(offered);
    const url = field.value.trim();
    const subprotocols = offered.value.split(/[\s,]+/).filter(Boolean);
    if (!areSubprotocols(subprotocols)) {
      showError(offered, "Names without spaces, each one once, with commas between them.");
      offered.focus();
      return;
    }
    this.#isOurs = url === this.#ownUrl;
    try {
      this.#socket = openSocket(url, subprotocols, this.#isOurs, byId("reconnect").checked);
    } catch (error) {
      showError(field, explainUrlError(error));
      field.focus();
      return;
    }
    this.#hasOpened = false;
    this.#sendTimes = [];
    this.#listen("open", () => this.#handleOpen());
    this.#listen("message", (event) => this.#handleMessage(event));
    this.#listen("latency", (event) => this.#roundTrips.add(event.latency));
    this.#listen("reconnecting", (event) => this.#handleLoss(event));
    this.#listen("reconnected", (event) => this.#handleReturn(event));
    this.#listen("close", (event) => this.#handleClose(event));
    this.#show("connecting");
  }

  // Ignore late events of an earlier socket.
  #listen(type, handler) {
    const socket = this.#socket;
    socket.addEventListener(type, (event) => {
      if (socket === this.#socket) handler(event);
    });
  }

  #handleOpen() {
    this.#waitFor(null);
    this.#show("open");
    showError(byId("connectionUrl"));
    const { protocol } = this.#socket;
    if (!this.#hasOpened) {
      this.#log.addEvent(`Connection opened${protocol && `, sub-protocol ${protocol}`}`);
    }
    this.#hasOpened = true;
    // The queue is sent now.
    this.#sendTimes = this.#sendTimes.map(() => performance.now());
    rescueFocus(byId("sendMessage"));
  }

  #handleReturn({ attempts, downtime }) {
    this.#log.addEvent(
      `Connection opened again after ${inSeconds(downtime)}, on attempt ${attempts}`,
    );
  }

  #handleMessage({ data }) {
    const sendTime = this.#sendTimes.shift();
    this.#received.add(byteSize(data));
    // A server that is no echo also sends messages that answer none.
    if (sendTime === undefined) {
      this.#log.addReceived(data, "");
    } else {
      const roundTrip = performance.now() - sendTime;
      this.#roundTrips.add(roundTrip);
      this.#log.addReceived(data, `${roundTrip.toFixed(1)} ms`);
    }
  }

  #handleLoss(event) {
    const { attempt, delay, code, reason } = event;
    const wasOpen = this.#stateIs("open");
    // Messages in flight are lost, and later ones are queued.
    if (wasOpen) this.#sendTimes = [];
    const what = wasOpen ? `${closingLine("lost", code, reason)}.` : "No connection.";
    this.#log.addEvent(`${what} Attempt ${attempt} in ${inSeconds(delay)}`, "bad");
    this.#waitFor(event);
    this.#show("reconnecting");
    if (!this.#hasOpened) this.#explain();
    rescueFocus(byId("retryButton"));
  }

  #handleClose({ code, reason }) {
    this.#waitFor(null);
    // A connection that never opened has 1006.
    const isGood = GOOD_CLOSE_CODES.includes(code);
    this.#show("closed", isGood ? undefined : code);
    const line = closingLine("closed", code, reason, this.#hasOpened);
    this.#log.addEvent(line, isGood ? "good" : "bad");
    if (!this.#hasOpened) this.#explain();
    rescueFocus(byId("connectButton"));
  }

  #explain() {
    const texts = { url: this.#socket.url, origin: location.origin };
    showError(byId("connectionUrl"), filled("neverOpened", texts));
  }

  #sendText() {
    const message = byId("sendMessage");
    this.#send(message.value, message);
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
    if (content && socket === this.#socket) this.#send(content, field);
  }

  #send(data, field) {
    if (this.#socket.readyState > WebSocket.OPEN) return;
    const time = performance.now();
    showError(field);
    try {
      this.#socket.send(data);
    } catch (error) {
      showError(field, error.message);
      return;
    }
    this.#sendTimes.push(time);
    this.#sent.add(byteSize(data));
    this.#log.addSent(data, this.#stateIs("open") ? "" : "waits");
  }

  #close() {
    const code = byId("closeCode");
    showError(code);
    try {
      this.#socket.close(Number(code.value), byId("closeReason").value);
    } catch (error) {
      showError(code, error.message);
      code.focus();
      return;
    }
    this.#waitFor(null);
    this.#show("closing");
  }

  // The view.

  #show(state, badCode) {
    const label = byId("stateLabel");
    label.textContent = badCode ? `${STATES[state]} (${badCode})` : STATES[state];
    label.dataset.state = badCode ? "bad" : state;
    for (const control of document.querySelectorAll("[data-enabled-in]")) {
      control.disabled = !control.dataset.enabledIn.split(" ").includes(state);
    }
    byId("cutButton").disabled = state !== "open" || !this.#isOurs;
  }

  #stateIs(state) {
    return byId("stateLabel").dataset.state === state;
  }

  /** Count down to this attempt, or stop the countdown. */
  #waitFor(event) {
    clearInterval(this.#countdown);
    byId("waiting").hidden = event === null;
    if (event === null) return;
    const end = performance.now() + event.delay;
    const tick = () => {
      const left = end - performance.now();
      byId("countdown").textContent =
        left > 0 ? `Attempt ${event.attempt} in ${inSeconds(left)}` : `Attempt ${event.attempt} ...`;
      byId("retryButton").disabled = left <= 0;
      if (left <= 0) clearInterval(this.#countdown);
    };
    this.#countdown = setInterval(tick, COUNTDOWN_INTERVAL);
    tick();
  }
}

/** The number of messages of one direction, and their bytes. */
class Counter {
  #element;
  #messages = 0;
  #bytes = 0;

  constructor(element) {
    this.#element = element;
  }

  add(bytes) {
    this.#messages += 1;
    this.#bytes += bytes;
    this.#element.textContent = `${count(this.#messages, "message")}, ${inBytes(this.#bytes)}`;
  }
}

function openSocket(url, subprotocols, isOurs, reconnects) {
  // Newer browsers also take http:// and relative addresses; older ones throw this error.
  if (!/^wss?:\/\//i.test(url)) throw new SyntaxError(url);
  const socket = new ReliableWebSocket(url, subprotocols, {
    minDelay: MIN_DELAY,
    maxDelay: MAX_DELAY,
    maxAttempts: reconnects ? Infinity : 0,
    maxFirstAttempts: MAX_FIRST_ATTEMPTS,
    ...(isOurs ? heartbeat() : { heartbeatInterval: null }),
  });
  socket.binaryType = "arraybuffer";
  return socket;
}

/** Return the options for one heartbeat each second, which the server answers as such or as an echo. */
function heartbeat() {
  const { heartbeatInterval, heartbeatMessage, heartbeatReply } = pageSettings();
  const isAnswered = heartbeatInterval !== null && heartbeatMessage !== null;
  const message = heartbeatMessage ?? HEARTBEAT_MESSAGE;
  return {
    heartbeatInterval: Math.min(heartbeatInterval ?? Infinity, HEARTBEAT_INTERVAL),
    heartbeatMessage: message,
    heartbeatReply: isAnswered ? heartbeatReply : message,
  };
}

/** Return true if these are tokens (RFC 6455, section 4.1), each one once. */
function areSubprotocols(names) {
  const areTokens = names.every((name) => /^[!#$%&'*+.^_`|~\w-]+$/.test(name));
  return areTokens && new Set(names).size === names.length;
}

function explainUrlError(error) {
  return error.name === "SyntaxError"
    ? "This is not the address of a WebSocket. Write ws://host:port/path, or wss:// for TLS," +
        " without # and with a port up to 65535."
    : `The browser does not open this address: ${error.message}`;
}

function closingLine(what, code, reason, hasOpened = true) {
  const meaning = hasOpened ? CLOSE_CODES[code] : "never opened";
  const explained = meaning ? `${code} (${meaning})` : code;
  return `Connection ${what}. Code: ${explained}. Reason: ${reason || "none given"}`;
}

new DemoPage(new CommunicationLog(), new RoundTrips());
