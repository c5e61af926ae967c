// A WebSocket that reconnects, in place of the browser's own, with the same arguments and events.
//
//     const socket = new ReliableWebSocket("/ws");
//     socket.onmessage = ({ data }) => console.log(data);
//     socket.send("Hello");
//
// This module has no dependencies and no build step. The types are in client.d.ts: what they do not
// name is exported for hub.js alone.
//
// No comment contains an example of an import statement: some storages rewrite such statements in
// collectstatic, also in comments, and fail on a module that seems to load itself.

export const DEFAULTS = {
  path: undefined,
  minDelay: 1_000,
  maxDelay: 30_000,
  maxAttempts: Infinity,
  maxFirstAttempts: 5,
  connectTimeout: 10_000,
  finalCodes: [],
  queue: true,
  maxQueue: 100,
  heartbeatInterval: null,
  heartbeatMessage: "\x05",
  heartbeatReply: "\x06",
};

// After these, another attempt would end in the same way: the client broke the protocol or a limit, or
// may not connect.
export const FINAL_CODES = [1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003];

const NO_STATUS = 1005;
export const ABNORMAL_CLOSURE = 1006;
const TIMEOUT = 3008;

export const CLOSE_TIMEOUT = 10_000; // milliseconds
const MAX_UNANSWERED = 16;
const MIN_TICK = 10; // milliseconds
const WAKING = 1_000; // milliseconds in which a page that wakes learns of a loss during its sleep
const MAX_DELAY = 2 ** 31 - 1; // milliseconds, the limit of setTimeout

const EVENTS = ["open", "message", "close", "error", "reconnecting", "reconnected", "latency"];

export class ReliableWebSocket extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSING = 2;
  static CLOSED = 3;

  #address;
  #protocols;
  #options;
  #finalCodes;
  #handlers = new Map();
  #binaryType = "blob";
  #readyState = ReliableWebSocket.CONNECTING;
  #url = "";
  #protocol = "";
  #extensions = "";

  // One attempt and its connection. An abort ends everything that belongs to them.
  #attempt = new AbortController();
  #socket = null;
  #timer;
  #backoff;
  #queue = [];

  #heartbeatTimer;
  #sentAt = 0;
  #receivedAt = 0;
  #unanswered = []; // the times of the heartbeats that have no reply yet
  #latency = null;

  constructor(url, protocols = [], options = {}) {
    super();
    const given = { ...pageSettings(), ...options };
    this.#options = checkedOptions("ReliableWebSocket", given, DEFAULTS, RULES);
    this.#finalCodes = new Set([...FINAL_CODES, ...this.#options.finalCodes]);
    this.#address = url ?? this.#options.path;
    if (this.#address === undefined) {
      throw new TypeError(
        'ReliableWebSocket needs a URL: as its first argument, or from {% websocket_client "/ws" %}.',
      );
    }
    this.#protocols = protocols;
    this.#backoff = new Backoff(
      this.#options,
      () => this.#connectAgain(),
      () => this.#wake(),
    );
    try {
      this.#connect();
    } catch (error) {
      this.#release();
      throw error;
    }
    this.#backoff.listen();
  }

  get url() {
    return this.#url;
  }

  /** CONNECTING also between a loss and the next connection, until the client gives up. */
  get readyState() {
    return this.#readyState;
  }

  get protocol() {
    return this.#protocol;
  }

  get extensions() {
    return this.#extensions;
  }

  /** The number of bytes that are not sent yet, including the queue. */
  get bufferedAmount() {
    const waiting = this.#queue.reduce((sum, data) => sum + byteSize(data), 0);
    return waiting + (this.#socket?.bufferedAmount ?? 0);
  }

  get binaryType() {
    return this.#binaryType;
  }

  set binaryType(type) {
    if (type !== "blob" && type !== "arraybuffer") return; // as browsers do
    this.#binaryType = type;
    if (this.#socket) this.#socket.binaryType = type;
  }

  /** Milliseconds from the last heartbeat to its reply; null before the first. */
  get latency() {
    return this.#latency;
  }

  /**
   * Send a message, or queue it while there is no connection.
   *
   * Throws a QuotaExceededError when the queue is full. A message in flight when the connection is
   * lost is not sent again.
   */
  send(data) {
    if (this.#readyState > ReliableWebSocket.OPEN) return; // as browsers do
    if (this.#canSend()) {
      this.#sentAt = performance.now();
      this.#socket.send(data);
      return;
    }
    if (this.#readyState === ReliableWebSocket.OPEN) this.#limitClosing();
    if (this.#options.queue) {
      const { maxQueue } = this.#options;
      if (this.#queue.length >= maxQueue) {
        throw new DOMException(
          `${maxQueue} messages wait for a connection already (maxQueue).`,
          "QuotaExceededError",
        );
      }
      this.#queue.push(copied(data));
    }
  }

  /** Close for good, within 10 s. The messages of the queue are dropped. */
  close(code, reason) {
    checkClose(code, reason);
    if (this.#readyState > ReliableWebSocket.OPEN) return;
    this.#queue = [];
    // The page does not see replies in flight either.
    clearTimeout(this.#heartbeatTimer);
    if (this.#socket) {
      this.#readyState = ReliableWebSocket.CLOSING;
      this.#clearTimer();
      this.#limitClosing();
      this.#socket.close(...(code === undefined ? [] : [code, reason ?? ""]));
      return;
    }
    this.#release();
    this.#readyState = ReliableWebSocket.CLOSING;
    // The events are dispatched after the call has returned, as in browsers.
    queueMicrotask(() => this.#finish({ code: code ?? NO_STATUS, reason: reason ?? "" }, false));
  }

  /** Start the next attempt now. */
  reconnect() {
    this.#backoff.hurry();
  }

  // Attempts.

  #connect() {
    this.#release();
    const { connectTimeout } = this.#options;
    this.#timer = setTimeout(() => {
      this.#lose({ code: ABNORMAL_CLOSURE, reason: `Not open within ${connectTimeout} ms` });
    }, connectTimeout);
    const isAsked = [this.#address, this.#protocols].some((each) => typeof each === "function");
    if (isAsked) {
      this.#openWhenKnown(this.#attempt.signal);
    } else {
      this.#open(this.#address, this.#protocols);
    }
  }

  #connectAgain() {
    try {
      this.#connect();
    } catch (error) {
      this.#giveUp(error);
    }
  }

  /** Close for good after an exception of WebSocket, which each further attempt would raise, too. */
  #giveUp(error) {
    this.#release();
    this.#finish({ code: ABNORMAL_CLOSURE, reason: error.message, error }, false);
  }

  async #openWhenKnown(signal) {
    let url;
    let protocols;
    let missing = "No URL";
    try {
      url = await answer(this.#address);
      if (signal.aborted) return;
      missing = "No sub-protocols";
      protocols = (await answer(this.#protocols)) ?? [];
    } catch (error) {
      // The function may have asked a server that is down, too.
      if (!signal.aborted) this.#lose({ code: ABNORMAL_CLOSURE, reason: missing, error });
      return;
    }
    if (signal.aborted) return;
    try {
      this.#open(url, protocols);
    } catch (error) {
      this.#giveUp(error);
    }
  }

  #open(url, protocols) {
    const socket = new WebSocket(absolute(url), protocols);
    this.#socket = socket;
    this.#url = socket.url;
    socket.binaryType = this.#binaryType;
    const { signal } = this.#attempt;
    socket.addEventListener("open", () => this.#handleOpen(), { signal });
    socket.addEventListener("message", (event) => this.#handleMessage(event), { signal });
    socket.addEventListener("close", (event) => this.#handleClose(event), { signal });
    socket.addEventListener("error", () => this.#handleError(socket), { signal });
  }

  #handleOpen() {
    if (this.#readyState === ReliableWebSocket.CLOSING) return;
    this.#clearTimer();
    const { signal } = this.#attempt;
    const back = this.#backoff.opened();
    this.#readyState = ReliableWebSocket.OPEN;
    this.#protocol = this.#socket.protocol;
    this.#extensions = this.#socket.extensions;
    this.#startHeartbeat();
    // Before the queue is sent: the handlers of this event may send what the server has to know about
    // each connection.
    this.dispatchEvent(new Event("open"));
    if (back && this.#readyState === ReliableWebSocket.OPEN) {
      this.dispatchEvent(Object.assign(new Event("reconnected"), back));
    }
    if (signal.aborted) return;
    for (const data of this.#queue.splice(0)) this.send(data);
  }

  #handleMessage({ data, origin }) {
    this.#receivedAt = performance.now();
    if (this.#unanswered.length > 0 && data === this.#options.heartbeatReply) {
      this.#latency = this.#receivedAt - this.#unanswered.shift();
      this.dispatchEvent(Object.assign(new Event("latency"), { latency: this.#latency }));
    } else {
      this.dispatchEvent(new MessageEvent("message", { data, origin }));
    }
  }

  #handleClose({ code, reason, wasClean }) {
    if (this.#readyState === ReliableWebSocket.CLOSING || this.#finalCodes.has(code)) {
      this.#release();
      this.#finish({ code, reason }, wasClean);
    } else {
      this.#lose({ code, reason, wasClean });
    }
  }

  /** Handle an error. Node.js 20 dispatches no close event after a failed handshake; browsers do. */
  #handleError({ readyState }) {
    if (readyState !== ReliableWebSocket.CONNECTING) return;
    this.#handleClose({ code: ABNORMAL_CLOSURE, reason: "", wasClean: false });
  }

  /** Schedule the next attempt, or give up after too many. */
  #lose({ code, reason, wasClean = false, error }) {
    this.#release();
    const next = this.#backoff.lost();
    if (next === null) {
      this.#finish({ code, reason, error }, wasClean);
      return;
    }
    this.#readyState = ReliableWebSocket.CONNECTING;
    const fields = { ...next, code, reason, wasClean, error };
    this.dispatchEvent(Object.assign(new Event("reconnecting"), fields));
  }

  #finish({ code, reason, error }, wasClean) {
    this.#readyState = ReliableWebSocket.CLOSED;
    this.#queue = [];
    this.#backoff.end();
    if (!wasClean) this.dispatchEvent(Object.assign(new Event("error"), { error }));
    this.dispatchEvent(closeEvent({ code, reason, wasClean }));
  }

  /** End the current attempt, or the wait for the next one. */
  #release() {
    this.#attempt.abort();
    this.#attempt = new AbortController();
    this.#socket?.close();
    this.#socket = null;
    this.#backoff.cancel();
    this.#clearTimer();
    this.#stopHeartbeat();
  }

  #clearTimer() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Limit the time for unsent data and the end of TCP, which the other side could delay for ever. */
  #limitClosing() {
    this.#timer ??= setTimeout(() => {
      const reason = `Not closed within ${CLOSE_TIMEOUT} ms`;
      this.#handleClose({ code: ABNORMAL_CLOSURE, reason, wasClean: false });
    }, CLOSE_TIMEOUT);
  }

  #wake() {
    if (this.#readyState === ReliableWebSocket.OPEN && this.#heartbeatTimer) this.#beat(true);
  }

  #canSend() {
    return (
      this.#readyState === ReliableWebSocket.OPEN && this.#socket.readyState === WebSocket.OPEN
    );
  }

  // The heartbeat: a message in each interval, and a dead connection after two intervals without one.

  #startHeartbeat() {
    const { heartbeatInterval, heartbeatMessage } = this.#options;
    if (heartbeatInterval === null || heartbeatMessage === null) return;
    this.#sentAt = this.#receivedAt = performance.now();
    this.#beat();
  }

  #stopHeartbeat() {
    clearTimeout(this.#heartbeatTimer);
    this.#heartbeatTimer = undefined;
    this.#unanswered = [];
  }

  #beat(isAtOnce = false) {
    const { heartbeatInterval: interval, heartbeatMessage: message } = this.#options;
    const now = performance.now();
    const [askedAt = Infinity] = this.#unanswered;
    // In a hidden tab, timers are late: no reply is missing before a heartbeat was sent.
    const deadAt = Math.max(this.#receivedAt + 2 * interval, askedAt + interval);
    if (now >= deadAt) {
      const reason = `No message for ${2 * interval} ms`;
      this.#socket.close(TIMEOUT, reason); // for a server that is alive after all
      this.#lose({ code: ABNORMAL_CLOSURE, reason });
      return;
    }
    if (!this.#canSend()) {
      this.#limitClosing();
      return;
    }
    const isDue = now >= this.#sentAt + interval;
    const isSilent = isAtOnce || now >= this.#receivedAt + interval;
    if (isDue || (isSilent && askedAt === Infinity)) {
      this.#socket.send(message);
      this.#sentAt = now;
      this.#unanswered.push(now);
      // The server sends much and answers no heartbeat.
      if (this.#unanswered.length > MAX_UNANSWERED) this.#unanswered.shift();
    }
    clearTimeout(this.#heartbeatTimer);
    const [awaitedSince] = this.#unanswered;
    const nextLook =
      awaitedSince === undefined
        ? this.#receivedAt + interval
        : Math.max(this.#receivedAt + 2 * interval, awaitedSince + interval);
    const delay = Math.max(Math.min(this.#sentAt + interval, nextLook) - now, MIN_TICK);
    this.#heartbeatTimer = setTimeout(() => this.#beat(), delay);
  }

  // onopen, onmessage and so on: each keeps its place among the listeners from when it was first set.

  static {
    for (const type of EVENTS) {
      Object.defineProperty(this.prototype, `on${type}`, {
        configurable: true,
        enumerable: true,
        get() {
          return this.#handlers.get(type) ?? null;
        },
        set(handler) {
          if (!this.#handlers.has(type)) {
            this.addEventListener(type, (event) => this.#handlers.get(type)?.call(this, event));
          }
          this.#handlers.set(type, typeof handler === "function" ? handler : null);
        },
      });
    }
    for (const name of ["CONNECTING", "OPEN", "CLOSING", "CLOSED"]) {
      Object.defineProperty(this.prototype, name, { value: this[name], enumerable: true });
    }
  }
}

/** Return the settings that `{% websocket_client %}` has put into the page. */
export function pageSettings() {
  const element = globalThis.document?.getElementById("ws_support-client");
  return element ? JSON.parse(element.textContent) : {};
}

/** The time until the next attempt to connect, and whether there is one. */
export class Backoff {
  #options;
  #connect;
  #woken;
  #timer;
  #attempts = 0; // in a row, without a connection that lasted
  #isOpen = false;
  #hasOpened = false;
  #openedAt = 0;
  #lostAt = 0;
  #wokenAt = -Infinity;

  /**
   * `options` has minDelay, maxDelay, maxAttempts and maxFirstAttempts. `connect` is called when an
   * attempt is due, and `woken` when the network is back or the page is visible again.
   */
  constructor(options, connect, woken) {
    this.#options = options;
    this.#connect = connect;
    this.#woken = woken;
  }

  /** Start to listen to what the browser tells of the network and the page, until end(). */
  listen() {
    for (const [target, type] of wakingEvents()) target.addEventListener(type, this.#wake);
  }

  /** Note that there is a connection. Return the attempts and the time since the last one, if any. */
  opened() {
    this.#openedAt = performance.now();
    const attempts = this.#attempts;
    const back = this.#hasOpened ? { attempts, downtime: this.#openedAt - this.#lostAt } : null;
    this.#isOpen = this.#hasOpened = true;
    return back;
  }

  /**
   * Note that the connection is lost or the attempt has failed, and schedule the next attempt.
   *
   * Return the number of that attempt and the time until then, or null after too many.
   */
  lost() {
    const now = performance.now();
    const { minDelay, maxDelay, maxAttempts, maxFirstAttempts } = this.#options;
    const window = () => Math.min(maxDelay, minDelay * 2 ** this.#attempts);
    // A page that comes back from the cache of the browser, or from a sleep, learns only afterwards
    // that its connection is lost.
    const isLateNews = this.#isOpen && now - this.#wokenAt < WAKING;
    this.#wokenAt = -Infinity;
    if (this.#isOpen) {
      this.#isOpen = false;
      this.#lostAt = now;
      // A server that accepts and closes at once gets no more attempts than a server that is down.
      if (now - this.#openedAt >= window()) this.#attempts = 0;
    }
    // Without a network, no server can have refused this page.
    const mayBeRefused = !this.#hasOpened && globalThis.navigator?.onLine !== false;
    if (this.#attempts >= (mayBeRefused ? Math.min(maxAttempts, maxFirstAttempts) : maxAttempts)) {
      return null;
    }
    // "Full jitter": a server that ends loses all its clients at once, and they must not all reconnect
    // at once.
    const delay = isLateNews ? 0 : Math.random() * window();
    this.#attempts += 1;
    this.#timer = setTimeout(() => this.hurry(), delay);
    return { attempt: this.#attempts, delay };
  }

  /** Start the scheduled attempt now, if there is one. */
  hurry() {
    if (this.#timer === undefined) return;
    this.cancel();
    this.#connect();
  }

  /** Drop the scheduled attempt, if there is one. */
  cancel() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  end() {
    this.cancel();
    for (const [target, type] of wakingEvents()) target.removeEventListener(type, this.#wake);
  }

  #wake = ({ type }) => {
    if (type === "visibilitychange" && document.visibilityState === "hidden") return;
    // Failures without a network say nothing about the server: the next attempt counts as the first.
    if (type === "online") this.#attempts = Math.min(this.#attempts, 1);
    this.#wokenAt = performance.now();
    this.hurry();
    this.#woken();
  };
}

// The rules of options: what a good value is, in code and in words.

const isDelay = (value) => typeof value === "number" && value > 0 && value <= MAX_DELAY;
const isCount = (value) => value === Infinity || (Number.isInteger(value) && value >= 0);
const milliseconds = "a number of milliseconds above 0";

export const DELAY = [isDelay, milliseconds];
export const COUNT = [isCount, "a whole number, or Infinity"];
export const FLAG = [(value) => typeof value === "boolean", "true or false"];

/** The rules of what Backoff takes, of the limit of an attempt, and of the codes that end it all. */
export const CONNECTING_RULES = {
  minDelay: DELAY,
  maxDelay: [
    (value, { minDelay }) => isDelay(value) && value >= minDelay,
    `${milliseconds}, from minDelay on`,
  ],
  maxAttempts: COUNT,
  maxFirstAttempts: COUNT,
  connectTimeout: DELAY,
  finalCodes: [(value) => Array.isArray(value) && value.every(Number.isInteger), "a list of codes"],
};

const RULES = {
  ...CONNECTING_RULES,
  queue: FLAG,
  maxQueue: COUNT,
  heartbeatInterval: [(value) => value === null || isDelay(value), `${milliseconds}, or null`],
  heartbeatMessage: [(value) => value === null || typeof value === "string", "text, or null"],
  heartbeatReply: [(value) => typeof value === "string", "text"],
};

/** Return the options of `owner`, a class: those that are given, and defaults. */
export function checkedOptions(owner, given, defaults, rules) {
  for (const name of Object.keys(given)) {
    if (!(name in defaults)) throw new TypeError(`${owner} has no option ${name}.`);
  }
  const options = { ...defaults, ...withoutUndefined(given) };
  for (const [name, [isGood, wanted]] of Object.entries(rules)) {
    if (!isGood(options[name], options)) {
      throw new TypeError(`${owner}: ${name} must be ${wanted}, not ${options[name]}.`);
    }
  }
  return options;
}

function withoutUndefined(object) {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
}

/** Return a promise of `value`, or of the result of the function `value`. An exception rejects it. */
export async function answer(value) {
  return typeof value === "function" ? value() : value;
}

/** Make a CloseEvent. Node.js has WebSocket from version 22 on, and CloseEvent from 23 on. */
export function closeEvent(fields) {
  return globalThis.CloseEvent
    ? new CloseEvent("close", fields)
    : Object.assign(new Event("close"), fields);
}

/** Check the arguments of close() as WebSocket does, also without a connection. */
function checkClose(code, reason = "") {
  if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
    throw new DOMException(
      `A page may close with 1000 and with 3000 to 4999, not with ${code}.`,
      "InvalidAccessError",
    );
  }
  if (byteSize(reason) > 123) {
    throw new DOMException("The reason of a close is longer than 123 bytes.", "SyntaxError");
  }
}

/** `url` from where the page is, and ws: for http:. What is no URL is left to WebSocket to refuse. */
export function absolute(url) {
  let result;
  try {
    result = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  } catch {
    return url;
  }
  result.protocol = result.protocol.replace(/^http/, "ws");
  return result.href;
}

/** Return a copy of the data: a page may change a buffer while it is queued. */
function copied(data) {
  // By name: an object of another frame is no instance of the classes of this page.
  const kind = Object.prototype.toString.call(data).slice("[object ".length, -1);
  if (kind === "ArrayBuffer") return data.slice(0);
  if (ArrayBuffer.isView(data)) {
    // Not `data.buffer.slice()`: a slice of shared memory is shared, too, and cannot be sent.
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice().buffer;
  }
  return kind === "Blob" || kind === "File" ? data : String(data);
}

export function byteSize(data) {
  if (typeof data === "string") return new TextEncoder().encode(data).length;
  return data.byteLength ?? data.size;
}

function* wakingEvents() {
  if (globalThis.addEventListener) yield [globalThis, "online"];
  if (globalThis.document) yield [document, "visibilitychange"];
}
