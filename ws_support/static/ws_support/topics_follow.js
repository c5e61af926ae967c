// What topics.js knows of one subscription: its position, and what it takes and drops to keep its place.

import { answer } from "./client.js";
import { HubError } from "./hub_protocol.js";

const POSITION = /^\d{1,15}-\d{1,18}$/;

// The words with which TopicsHub begins the texts of its refusals.
const REFUSAL = /HubException: (forbidden|invalid|limit|unavailable): (.*)$/s;

// After these, another attempt would end in the same way.
const FINAL = ["forbidden", "invalid", "limit"];

const State = Object.freeze({
  WAITING: "waiting", // for a connection, or for another attempt
  SUBSCRIBING: "subscribing",
  ACTIVE: "active",
  CLOSED: "closed",
});

/** What went wrong with a topic. `code` says what, in one word: see topics.d.ts. */
export class TopicError extends Error {
  constructor(message, code, options) {
    super(message, options);
    this.name = "TopicError";
    this.code = code;
  }

  /** Return the error that a call of the hub has ended with, for users of topics. */
  static of(error) {
    if (!(error instanceof HubError)) return error;
    const [, code, text] = (error.kind === "server" && REFUSAL.exec(error.message)) || [];
    // The limits of this client are not those of the server.
    const kind = error.kind === "limit" ? "busy" : error.kind;
    return new TopicError(text ?? error.message, code ?? kind, { cause: error });
  }
}

export function isPosition(value) {
  return typeof value === "string" && POSITION.test(value);
}

function isNewer(position, than) {
  return than === null || offsetOf(position) > offsetOf(than);
}

function offsetOf(position) {
  return Number(position.slice(0, position.indexOf("-")));
}

/**
 * One subscription, over all connections.
 *
 * `call` calls a method of the hub, and `tell` dispatches an event to the page. `store` keeps the
 * position for the next page, and `ended` is called when the server has refused for good.
 */
export class Follow {
  position;
  people = new Map();
  #name;
  #options;
  #delays;
  #call;
  #tell;
  #store;
  #ended;

  #state = State.WAITING;
  #run = null; // the attempt whose answer counts
  #failures = 0; // in a row
  #timer;
  #hasBegun = false;
  #snapshot = null;
  // What has come before the answer: messages that were missed, and new ones whose place is known only
  // with it.
  #held = [];

  constructor(name, options, delays, { call, tell, store, ended }) {
    this.#name = name;
    this.#options = options;
    this.#delays = delays;
    this.position = options.since;
    this.#call = call;
    this.#tell = tell;
    this.#store = store;
    this.#ended = ended;
  }

  /** Subscribe: there is a connection. */
  async begin() {
    if (this.#state === State.CLOSED) return;
    this.stop();
    const run = (this.#run = {});
    this.#state = State.SUBSCRIBING;
    const since = this.position;
    let result;
    try {
      const token = (await answer(this.#options.token)) ?? null;
      if (run !== this.#run) return;
      const { snapshot, presence } = this.#options;
      const options = { since, token, snapshot, presence };
      result = await this.#call("Subscribe", this.#name, options);
    } catch (error) {
      if (run === this.#run) this.#fail(TopicError.of(error));
      return;
    }
    if (run === this.#run) this.#settle(since, result);
  }

  /** Wait: the connection is lost. */
  stop() {
    clearTimeout(this.#timer);
    this.#run = null;
    this.#held = [];
    this.#snapshot = null;
    if (this.#state !== State.CLOSED) this.#state = State.WAITING;
  }

  close() {
    this.#state = State.CLOSED;
    this.stop();
  }

  /** Say that there will be no connection, because of an error or because the page wants that. */
  abandon(error) {
    this.stop();
    if (error) this.#tell("error", { error, code: codeOf(error), willRetry: false });
  }

  // What the server sends.

  message(position, data) {
    if (this.#state === State.ACTIVE) this.#take({ position, data });
    else if (this.#state === State.SUBSCRIBING) this.#held.push({ position, data });
  }

  snapshot(position, state) {
    if (this.#state === State.SUBSCRIBING) this.#snapshot ??= { position, state };
  }

  gap(position) {
    if (this.#state === State.SUBSCRIBING) this.#held.push({ position, isGap: true });
    else if (this.#state === State.ACTIVE) this.#jump(position);
  }

  presence({ whole, joined, left, changed, count }) {
    if (this.#state === State.WAITING || this.#state === State.CLOSED) return;
    if (whole) this.people.clear();
    for (const { key } of left) this.people.delete(key);
    for (const each of [...joined, ...changed]) this.people.set(each.key, each);
    this.#tell("presence", { whole, joined, left, changed, count, members: [...this.people.values()] });
  }

  // Its place.

  #settle(since, { recovered, position }) {
    this.#state = State.ACTIVE;
    this.#failures = 0;
    const held = this.#held;
    const snapshot = this.#snapshot;
    const hadBegun = this.#hasBegun || since !== null;
    this.#held = [];
    this.#snapshot = null;
    this.#hasBegun = true;
    if (snapshot) {
      this.#move(snapshot.position);
      this.#tell("snapshot", snapshot);
    } else if (recovered) {
      const missed = this.#inOrder(held.slice(0, gapIn(held))).length;
      this.#tell("recovered", { position, missed });
    } else {
      this.#move(position);
      this.#tell(hadBegun ? "gap" : "subscribed", { position });
    }
    this.#takeHeld(held);
  }

  #takeHeld(held) {
    const end = gapIn(held);
    for (const each of this.#inOrder(held.slice(0, end))) this.message(each.position, each.data);
    if (end === held.length) return;
    this.gap(held[end].position);
    this.#takeHeld(held.slice(end + 1));
  }

  /** Return messages without those that are not newer: with several subscriptions, some come twice. */
  #inOrder(messages) {
    if (messages.some(({ position }) => position === null)) return messages;
    const newer = messages.filter(({ position }) => isNewer(position, this.position));
    const byPosition = new Map(newer.map((each) => [each.position, each]));
    return [...byPosition.values()].sort((a, b) => offsetOf(a.position) - offsetOf(b.position));
  }

  #take({ position, data }) {
    if (position !== null) {
      if (!isNewer(position, this.position)) return;
      this.#move(position);
    }
    this.#tell("message", { position, data });
  }

  #jump(position) {
    this.#move(position);
    if (this.#options.snapshot) {
      this.position = null;
      this.begin();
    } else {
      this.#tell("gap", { position });
    }
  }

  #move(position) {
    this.position = position;
    this.#store(position);
  }

  // Errors.

  #fail(error) {
    this.stop();
    const code = codeOf(error);
    if (code === "lost" || code === "state") return; // The next connection subscribes.
    const willRetry = !FINAL.includes(code);
    if (willRetry) {
      const { minDelay, maxDelay } = this.#delays;
      const delay = Math.min(maxDelay, minDelay * 2 ** this.#failures) * Math.random();
      this.#failures += 1;
      this.#timer = setTimeout(() => this.begin(), delay);
    } else {
      this.close();
      this.#ended();
    }
    this.#tell("error", { error, code, willRetry });
  }
}

function codeOf(error) {
  // Else, a function of the page has thrown it.
  return error instanceof TopicError ? error.code : "page";
}

function gapIn(held) {
  const found = held.findIndex(({ isGap }) => isGap);
  return found < 0 ? held.length : found;
}
