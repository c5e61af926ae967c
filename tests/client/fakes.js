// A clock that is moved by hand, and sockets that do what a test says. What servers and networks
// really do is tested in a browser.

import { setMaxListeners } from "node:events";
import { readFile } from "node:fs/promises";

const source = await readFile(
  new URL("../../ws_support/static/ws_support/client.js", import.meta.url),
  "utf8",
);

export class Clock {
  #timers = new Map();
  #next = 1;
  now = 0;

  constructor() {
    globalThis.setTimeout = (call, delay) => {
      this.#timers.set(this.#next, { at: this.now + delay, call });
      return this.#next++;
    };
    globalThis.clearTimeout = (timer) => this.#timers.delete(timer);
    performance.now = () => this.now;
  }

  get timers() {
    return this.#timers.size;
  }

  /** Milliseconds until the next timer. */
  get next() {
    return Math.min(...[...this.#timers.values()].map(({ at }) => at)) - this.now;
  }

  advance(duration) {
    const end = this.now + duration;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end);
      if (due.length === 0) break;
      const [timer, { at, call }] = due.reduce((one, other) => (other[1].at < one[1].at ? other : one));
      this.#timers.delete(timer);
      this.now = Math.max(this.now, at);
      call();
    }
    this.now = end;
  }

  /** A computer that sleeps: timers are late. */
  sleep(duration) {
    this.now += duration;
  }
}

export class FakeSocket extends EventTarget {
  static OPEN = 1;
  static all = [];
  static listeners = 0;

  static get last() {
    return this.all.at(-1);
  }

  sent = [];
  readyState = 0;
  protocol = "";
  extensions = "";
  bufferedAmount = 0;

  constructor(url, protocols) {
    super();
    if (!/^wss?:/.test(url)) throw new DOMException("no URL", "SyntaxError");
    if ([protocols].flat().some((each) => /\s/.test(each))) {
      throw new DOMException("no token", "SyntaxError");
    }
    this.url = url;
    this.protocols = protocols;
    FakeSocket.all.push(this);
  }

  send(data) {
    this.sent.push(data);
  }

  close(code, reason) {
    if (this.readyState < 2) this.readyState = 2;
    this.closedWith ??= [code, reason];
  }

  // What the server and the network do.

  opens(protocol = "") {
    this.readyState = 1;
    this.protocol = protocol;
    this.dispatchEvent(new Event("open"));
  }

  says(data) {
    this.dispatchEvent(new MessageEvent("message", { data }));
  }

  ends(code = 1006, reason = "") {
    this.readyState = 3;
    const wasClean = code !== 1006;
    this.dispatchEvent(Object.assign(new Event("close"), { code, reason, wasClean }));
  }
}

/** What is in `document` and `window`, as far as the client asks. */
export class FakePage extends EventTarget {
  visibilityState = "visible";
  baseURI = "https://example.com/app/page";
  settings = null;
  listeners = 0;

  getElementById() {
    return this.settings && { textContent: JSON.stringify(this.settings) };
  }

  addEventListener(...args) {
    this.listeners += 1;
    super.addEventListener(...args);
  }

  removeEventListener(...args) {
    this.listeners -= 1;
    super.removeEventListener(...args);
  }
}

/** A new clock, page and list of sockets. */
export function faked() {
  const clock = new Clock();
  const page = new FakePage();
  setMaxListeners(Infinity, page);
  FakeSocket.all = [];
  globalThis.WebSocket = FakeSocket;
  globalThis.document = page;
  globalThis.addEventListener = (...args) => page.addEventListener(...args);
  globalThis.removeEventListener = (...args) => page.removeEventListener(...args);
  return { clock, page };
}

/** The same, and the module. */
export async function setUp() {
  const fakes = faked();
  const url = `data:text/javascript,${encodeURIComponent(source)}`;
  return { ...fakes, ...(await import(url)) };
}

/** The types of events that `socket` dispatches, and those events. */
export function recorded(socket) {
  const events = [];
  const types = ["open", "message", "close", "error", "reconnecting", "reconnected", "latency"];
  for (const type of types) socket.addEventListener(type, (event) => events.push(event));
  Object.defineProperty(events, "types", { get: () => events.map(({ type }) => type) });
  return events;
}

/** After what was promised. */
export function settled() {
  return new Promise((resolve) => setImmediate(resolve));
}
