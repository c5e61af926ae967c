// Topics of the server in a page: subscriptions that survive a lost connection, over one hub.
//
//     const topics = new Topics("/topics");
//     const room = topics.subscribe("room/7", { since: "stored" });
//     room.addEventListener("message", ({ data, position }) => console.log(data));
//     await room.publish({ text: "Hello" });
//
// This module needs client.js, hub.js and what belongs to them beside it, and no build step. The types
// are in topics.d.ts. What it says to the server is in docs/reference/topics-hub.md.
//
// No comment contains an example of an import statement: see client.js.

import { DEFAULTS, FLAG, checkedOptions } from "./client.js";
import { HubConnection, HubConnectionState } from "./hub.js";
import { Follow, TopicError, isPosition } from "./topics_follow.js";
import { SharedHub, canShare } from "./topics_shared.js";

export { TopicError };

const { Connected, Connecting, Disconnected } = HubConnectionState;

const DEFAULT_OPTIONS = { maxFirstAttempts: DEFAULTS.maxFirstAttempts, shared: false };

const STORED = "stored";
const STORE = "ws_support-topics";

const SUBSCRIBE_DEFAULTS = { since: null, token: null, snapshot: false, presence: false };

const SUBSCRIBE_RULES = {
  since: [
    (value) => value === null || value === STORED || isPosition(value),
    'a position, "stored" or null',
  ],
  token: [
    (value) => value === null || typeof value === "string" || typeof value === "function",
    "text, a function that returns it, or null",
  ],
  snapshot: FLAG,
  presence: [
    (value) => typeof value === "boolean" || value === "watch" || isObject(value),
    'true, false, "watch" or an object',
  ],
};

const HISTORY_DEFAULTS = { since: null, limit: null };

const HISTORY_RULES = {
  since: [(value) => value === null || isPosition(value), "a position or null"],
  limit: [
    (value) => value === null || (Number.isSafeInteger(value) && value > 0),
    "a whole number above 0, or null",
  ],
};

const FORWARDED = {
  reconnecting: ["attempt", "delay", "code", "reason", "wasClean", "error"],
  reconnected: ["attempts", "downtime"],
};

/** The topics of one hub, to which a page subscribes. */
export class Topics extends EventTarget {
  #hub;
  #store;
  #delays;
  #starting = null;
  #follows = new Map();
  // The ends of subscriptions that the server has not confirmed: what comes until then belongs to them.
  #leaving = new Map();

  constructor(url, options = {}) {
    super();
    const address = url ?? pageSettings().path;
    if (address === undefined) {
      throw new TypeError('Topics needs a URL: as its first argument, or from {% websocket_topics "/topics" %}.');
    }
    const { shared, ...rest } = { ...DEFAULT_OPTIONS, ...options };
    if (typeof shared !== "boolean") {
      throw new TypeError(`Topics: shared must be true or false, not ${shared}.`);
    }
    const Hub = shared && canShare() ? SharedHub : HubConnection;
    this.#hub = new Hub(address, rest);
    this.#store = `${STORE}:${typeof address === "function" ? "" : address}`;
    const { minDelay = DEFAULTS.minDelay, maxDelay = DEFAULTS.maxDelay } = rest;
    this.#delays = { minDelay, maxDelay };
    this.#listen();
    this.#start();
  }

  get state() {
    return this.#hub.state;
  }

  /** Subscribe to a topic. There is one subscription for each name. */
  subscribe(name, options = {}) {
    if (typeof name !== "string" || name === "") {
      throw new TypeError(`Topics: name must be the name of a topic, not ${String(name)}.`);
    }
    if (this.#follows.has(name)) {
      throw new TypeError(`Topics: there is a subscription to '${name}' already.`);
    }
    const key = `${this.#store}:${name}`;
    const checked = checkedOptions("Topics.subscribe()", options, SUBSCRIBE_DEFAULTS, SUBSCRIBE_RULES);
    const isStored = checked.since === STORED;
    if (isStored) checked.since = stored(key);
    const subscription = new TopicSubscription(name, {
      call: (...call) => this.#call(...call),
      leave: () => this.#leave(name, follow),
      follow: () => follow,
    });
    const follow = new Follow(name, checked, this.#delays, {
      call: (...call) => this.#call(...call),
      tell: (type, fields) => {
        subscription.dispatchEvent(Object.assign(new Event(type), fields));
      },
      store: (position) => isStored && store(key, position),
      ended: () => this.#follows.delete(name),
    });
    this.#follows.set(name, follow);
    this.#begin(name, follow);
    return subscription;
  }

  /** Publish under a topic, to which the page need not subscribe. */
  publish(name, data, options = null) {
    return this.#call("Publish", name, data, options);
  }

  /** Try to connect now, also after the connection was closed for good. */
  reconnect() {
    if (this.#hub.state === Disconnected) this.#start();
    else this.#hub.reconnect();
  }

  /** Close the connection. The subscriptions wait for `reconnect()`. */
  stop() {
    return this.#hub.stop();
  }

  // The connection.

  #listen() {
    const hub = this.#hub;
    const on = (method, handle) =>
      hub.on(method, (name, ...args) => {
        const follow = this.#follows.get(name);
        if (follow) handle(follow, ...args);
      });
    on("Message", (follow, position, data) => follow.message(position, data));
    on("Snapshot", (follow, position, state) => follow.snapshot(position, state));
    on("Gap", (follow, position) => follow.gap(position));
    on("Presence", (follow, difference) => follow.presence(difference));
    hub.addEventListener("reconnecting", (event) => {
      for (const follow of this.#follows.values()) follow.stop();
      this.#forward(event);
    });
    hub.addEventListener("reconnected", (event) => {
      this.#beginAll();
      this.#forward(event);
    });
    hub.addEventListener("close", ({ error }) => this.#closed(error));
  }

  #start() {
    this.#starting = this.#hub.start();
    this.#starting.then(
      () => {
        this.#beginAll();
        this.dispatchEvent(new Event("connected"));
      },
      (error) => this.#closed(error),
    );
  }

  #closed(error) {
    const reason = error && TopicError.of(error);
    for (const follow of this.#follows.values()) follow.abandon(reason);
    this.dispatchEvent(Object.assign(new Event("close"), { error: reason }));
  }

  #forward(event) {
    const fields = FORWARDED[event.type].map((name) => [name, event[name]]);
    this.dispatchEvent(Object.assign(new Event(event.type), Object.fromEntries(fields)));
  }

  #beginAll() {
    for (const [name, follow] of this.#follows) this.#begin(name, follow);
  }

  async #begin(name, follow) {
    if (this.#hub.state !== Connected) return;
    const leaving = this.#leaving.get(name);
    if (leaving) {
      await leaving;
      if (this.#hub.state !== Connected || this.#follows.get(name) !== follow) return;
    }
    follow.begin();
  }

  #leave(name, follow) {
    if (this.#follows.get(name) !== follow) return;
    follow.close();
    this.#follows.delete(name);
    store(`${this.#store}:${name}`, null);
    if (this.#hub.state !== Connected) return;
    const leaving = this.#hub.invoke("Unsubscribe", name).then(
      () => this.#hasLeft(name, leaving),
      () => this.#hasLeft(name, leaving),
    );
    this.#leaving.set(name, leaving);
  }

  #hasLeft(name, leaving) {
    if (this.#leaving.get(name) === leaving) this.#leaving.delete(name);
  }

  async #call(target, ...args) {
    try {
      if (this.#hub.state === Connecting) await this.#starting;
      return await this.#hub.invoke(target, ...args);
    } catch (error) {
      throw TopicError.of(error);
    }
  }
}

/** A subscription to one topic. */
export class TopicSubscription extends EventTarget {
  #name;
  #link;

  constructor(name, link) {
    super();
    this.#name = name;
    this.#link = link;
  }

  get name() {
    return this.#name;
  }

  /** The position of the last message; null before it is known, and for topics without history. */
  get position() {
    return this.#link.follow().position;
  }

  /** Who is present, as far as the page was told. */
  get people() {
    return [...this.#link.follow().people.values()];
  }

  publish(data, options = null) {
    return this.#link.call("Publish", this.#name, data, options);
  }

  history(options = {}) {
    if (!isObject(options)) {
      throw new TypeError(`TopicSubscription.history() takes an object, such as { limit: 50 }, not ${options}.`);
    }
    const owner = "TopicSubscription.history()";
    const { since, limit } = checkedOptions(owner, options, HISTORY_DEFAULTS, HISTORY_RULES);
    return this.#link.call("History", this.#name, since, limit);
  }

  members() {
    return this.#link.call("Members", this.#name);
  }

  /** End the subscription. Nothing comes after that. */
  unsubscribe() {
    this.#link.leave();
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Return the settings that `{% websocket_topics %}` has put into the page. */
function pageSettings() {
  const element = globalThis.document?.getElementById(STORE);
  return element ? JSON.parse(element.textContent) : {};
}

// Positions for the next page of this tab. A browser may have no storage for it.

function stored(key) {
  try {
    const position = sessionStorage.getItem(key);
    return isPosition(position) ? position : null;
  } catch {
    return null;
  }
}

function store(key, position) {
  try {
    if (position === null) sessionStorage.removeItem(key);
    else sessionStorage.setItem(key, position);
  } catch {
    // The next page begins without a position.
  }
}
