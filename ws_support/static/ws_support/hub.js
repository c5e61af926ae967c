// A client for SignalR hubs, for pages without npm. It speaks the JSON protocol over WebSockets.
//
//     const hub = new HubConnection("/chat");
//     hub.on("ReceiveMessage", (user, message) => console.log(user, message));
//     await hub.start();
//     const sum = await hub.invoke("Add", 1, 2);
//
// This module needs client.js, hub_protocol.js and hub_session.js beside it, and no build step. The types
// are in hub.d.ts.
//
// No comment contains an example of an import statement: see client.js.

import {
  ABNORMAL_CLOSURE,
  Backoff,
  CLOSE_TIMEOUT,
  CONNECTING_RULES,
  COUNT,
  DEFAULTS as SOCKET_DEFAULTS,
  DELAY,
  FINAL_CODES,
  FLAG,
  ReliableWebSocket,
  answer,
  checkedOptions,
  closeEvent,
} from "./client.js";
import {
  HubError,
  Type,
  broken,
  hubURL,
  isName,
  negotiated,
  parsed,
  parsedObject,
  records,
  withQuery,
  written,
} from "./hub_protocol.js";
import { Session, report, streamOf } from "./hub_session.js";

export { HubError };

const DEFAULTS = {
  minDelay: SOCKET_DEFAULTS.minDelay,
  maxDelay: SOCKET_DEFAULTS.maxDelay,
  maxAttempts: SOCKET_DEFAULTS.maxAttempts,
  maxFirstAttempts: 0,
  connectTimeout: SOCKET_DEFAULTS.connectTimeout,
  finalCodes: SOCKET_DEFAULTS.finalCodes,
  accessTokenFactory: null,
  stateful: false,
  keepAliveInterval: 15_000,
  serverTimeout: 30_000,
  maxInvocations: 1_000,
  maxQueue: 1_000,
  maxUnsent: 2 ** 20, // bytes
  maxStreamItems: 1_000,
};

const POSITIVE = [
  (value) => value === Infinity || (Number.isInteger(value) && value > 0),
  "a whole number above 0, or Infinity",
];

const RULES = {
  ...CONNECTING_RULES,
  accessTokenFactory: [
    (value) => value === null || typeof value === "function",
    "a function that returns the token, or null",
  ],
  stateful: FLAG,
  keepAliveInterval: DELAY,
  serverTimeout: DELAY,
  maxInvocations: POSITIVE,
  maxQueue: COUNT,
  maxUnsent: POSITIVE,
  maxStreamItems: POSITIVE,
};

export const HubConnectionState = Object.freeze({
  Disconnected: "Disconnected",
  Connecting: "Connecting",
  Connected: "Connected",
  Disconnecting: "Disconnecting",
  Reconnecting: "Reconnecting",
});

const { Disconnected, Connecting, Connected, Disconnecting, Reconnecting } = HubConnectionState;

/** Browsers tell pages no more. */
const NOT_TOLD = " The server is away, or has refused it: then its log says why.";

// What the current socket has to bring next.
const Phase = Object.freeze({ HANDSHAKE: "handshake", SEQUENCE: "sequence", MESSAGES: "messages" });

const NO_STATUS = 1005;

// Connections in a row that were resumed and did not last.
const MAX_RESUMES = 16;

const MIN_TICK = 10; // milliseconds
const LATE = 1_000; // milliseconds after which a timer has not just waited for its turn

export class HubConnection extends EventTarget {
  #address;
  #options;
  #finalCodes;
  #handlers = new Map();
  #unheard = new Set();
  #state = Disconnected;
  #backoff;

  // One attempt and its socket. An abort ends everything that belongs to them: what an older socket
  // still does has no effect.
  #attempt = new AbortController();
  #socket = null;
  #phase = Phase.HANDSHAKE;
  #timer;

  #endpoint = null;
  #session = null;
  #openedAt = 0;
  #resumes = 0;
  #replaced = null; // the socket before the one that resumes its session

  #starting = null;
  #stopping = null;

  #beatTimer;
  #beatDueAt = 0;
  #receivedAt = 0;
  #suspectedAt = 0;

  constructor(url, options = {}) {
    super();
    this.#options = checkedOptions("HubConnection", { ...options }, DEFAULTS, RULES);
    this.#finalCodes = new Set([...FINAL_CODES, ...this.#options.finalCodes]);
    if (typeof url !== "function") hubURL(url);
    this.#address = url;
  }

  get state() {
    return this.#state;
  }

  /** The id that the server knows the connection by; null where it was not negotiated. */
  get connectionId() {
    return this.#session ? this.#endpoint.connectionId : null;
  }

  /** Connect, and wait for the server's answer to the handshake. */
  async start() {
    if (this.#state !== Disconnected) {
      const wanted = `start() needs a connection that is ${Disconnected}`;
      throw new HubError(`${wanted}, not ${this.#state}.`, "state");
    }
    this.#state = Connecting;
    const starting = (this.#starting = deferred());
    this.#backoff = new Backoff(
      this.#options,
      () => this.#connect(),
      () => this.#wake(),
    );
    this.#backoff.listen();
    this.#connect();
    return starting.promise;
  }

  /** Close for good, within 10 s. */
  async stop() {
    if (this.#state === Disconnected) return;
    if (this.#state !== Disconnecting) {
      this.#session?.control({ type: Type.CLOSE });
      this.#close();
    }
    await this.#stopping.promise;
  }

  /** Start the next attempt now. */
  reconnect() {
    this.#backoff?.hurry();
  }

  // Calls.

  async invoke(name, ...args) {
    return this.#sessionFor("invoke", name).invoke(name, args);
  }

  async send(name, ...args) {
    await this.#sessionFor("send", name).send(name, args);
  }

  stream(name, ...args) {
    checkName(name);
    const open = (sink) => this.#sessionFor("stream", name).stream(sink, name, args);
    return streamOf(open, this.#options.maxStreamItems);
  }

  #sessionFor(what, name) {
    checkName(name);
    if (this.#session) return this.#session;
    throw new HubError(
      `Cannot ${what} '${name}' while the connection is ${this.#state}. Calls are not queued.`,
      "state",
    );
  }

  // Handlers.

  on(name, handler) {
    const key = keyOf(name);
    checkHandler(handler);
    const handlers = this.#handlers.get(key) ?? [];
    // A new list: a handler may add or remove handlers while they are called.
    if (!handlers.includes(handler)) this.#handlers.set(key, [...handlers, handler]);
  }

  off(name, handler) {
    const key = keyOf(name);
    if (handler === undefined) {
      this.#handlers.delete(key);
      return;
    }
    checkHandler(handler);
    const handlers = this.#handlers.get(key) ?? [];
    this.#handlers.set(key, handlers.filter((each) => each !== handler));
  }

  #call({ target, arguments: args, invocationId: id }) {
    const key = keyOf(target);
    const handlers = this.#handlers.get(key) ?? [];
    if (handlers.length === 0 && !this.#unheard.has(key)) {
      this.#unheard.add(key);
      console.warn(`HubConnection: the hub has called '${target}', for which on() has no handler.`);
    }
    if (id !== undefined) {
      this.#session.answer(id, () => this.#outcomeOf(handlers, args));
      return;
    }
    for (const handler of handlers) {
      // In their turn, without a wait for what they promise.
      answer(() => handler.apply(this, args)).catch(report);
    }
  }

  /** Return the one result of `handlers`, or the error that the server gets. */
  async #outcomeOf(handlers, args) {
    const results = [];
    let failure = null;
    for (const handler of handlers) {
      try {
        const result = await handler.apply(this, args);
        if (result !== undefined) results.push(result);
        failure = null;
      } catch (error) {
        report(error);
        failure = { error: String(error) };
      }
    }
    if (results.length > 1) return { error: "Client provided multiple results." };
    if (failure) return failure;
    if (results.length === 0) return { error: "Client didn't provide a result." };
    return { result: results[0] };
  }

  // Attempts.

  async #connect() {
    this.#limitAttempt();
    const { signal } = this.#attempt;
    let url;
    try {
      const endpoint = await this.#locate(signal);
      if (signal.aborted) return;
      this.#endpoint = endpoint;
      url = await this.#socketURL();
    } catch (error) {
      // The functions of the page may have asked a server that is down, too.
      if (!signal.aborted) this.#reconnect({ reason: "No URL", error });
      return;
    }
    if (!signal.aborted) this.#open(url);
  }

  async #locate(signal) {
    const url = hubURL(await answer(this.#address));
    const { stateful, accessTokenFactory } = this.#options;
    if (signal.aborted || (!stateful && !accessTokenFactory)) {
      return { url, token: null, connectionId: null, isStateful: false };
    }
    // With a token, for the one that the server gives in its place: that may stand in a URL.
    return negotiated(url, await this.#token(), signal, stateful);
  }

  async #socketURL() {
    const { url, token } = this.#endpoint;
    const access = token ?? (await this.#token());
    return access ? withQuery(url, "access_token", access) : url;
  }

  async #token() {
    const token = (await answer(this.#options.accessTokenFactory)) ?? "";
    if (typeof token === "string") return token;
    throw new TypeError(`HubConnection: accessTokenFactory must return text, not ${token}.`);
  }

  #open({ href }) {
    let socket;
    try {
      socket = new WebSocket(href);
    } catch (error) {
      // Each further attempt would raise it, too.
      this.#fail({ reason: error.message, error });
      return;
    }
    this.#socket = socket;
    const { signal } = this.#attempt;
    const listen = (type, handle) =>
      socket.addEventListener(type, (event) => signal.aborted || handle(event));
    listen("open", () => this.#handleOpen());
    listen("message", (event) => this.#handleMessage(event));
    listen("close", (event) => this.#handleClose(event));
    listen("error", () => this.#handleError(socket));
  }

  #limitAttempt() {
    const { connectTimeout } = this.#options;
    this.#timer = setTimeout(
      () => this.#lose({ reason: `Not connected within ${connectTimeout} ms` }),
      connectTimeout,
    );
  }

  #handleOpen() {
    if (this.#phase === Phase.SEQUENCE) {
      this.#session.resume(this.#socket);
    } else {
      const version = this.#endpoint.isStateful ? 2 : 1;
      this.#socket.send(written({ protocol: "json", version }));
    }
  }

  #handleMessage({ data }) {
    if (this.#state === Disconnecting) return;
    const { signal } = this.#attempt;
    this.#receivedAt = performance.now();
    try {
      for (const record of records(data)) {
        if (signal.aborted || this.#state === Disconnecting) return;
        if (this.#phase === Phase.HANDSHAKE) {
          this.#handleHandshake(parsedObject(record));
        } else {
          this.#handleRecord(record);
        }
      }
    } catch (error) {
      if (!(error instanceof HubError)) throw error;
      this.#refuse(error);
      return;
    }
    // Browsers slow the timers of hidden tabs down, and not what arrives.
    if (this.#beatTimer && this.#isPingDue()) this.#beat();
  }

  #handleHandshake({ type, error, protocol }) {
    // An echo answers with the request, which names a protocol.
    if (type !== undefined || protocol !== undefined) {
      throw broken("a message where the answer to the handshake belongs");
    }
    if (error) {
      const reason = `Server returned handshake error: ${error}`;
      this.#reconnect({ reason, error: new HubError(reason, "connect") });
      return;
    }
    this.#state = Connected;
    this.#session = new Session(this.#options, this.#endpoint.isStateful);
    this.#session.attach(this.#socket);
    this.#resumes = 0;
    const back = this.#backoff.opened();
    // With a ping: from the first one on, the server watches for silence.
    this.#startMessages();
    this.#starting?.resolve();
    this.#starting = null;
    if (back) {
      const { connectionId } = this;
      this.dispatchEvent(Object.assign(new Event("reconnected"), { ...back, connectionId }));
    }
  }

  #startMessages() {
    clearTimeout(this.#timer);
    this.#phase = Phase.MESSAGES;
    this.#openedAt = performance.now();
    this.#beat();
  }

  #handleRecord(record) {
    const message = parsed(record);
    const session = this.#session;
    if (this.#phase === Phase.SEQUENCE) {
      // What comes before the Sequence has no place among the messages, and comes again.
      if (message.type !== Type.SEQUENCE && message.type !== Type.CLOSE) return;
    } else if (!session.isNew(message, record)) {
      return;
    }
    switch (message.type) {
      case Type.INVOCATION:
        this.#call(message);
        break;
      case Type.STREAM_ITEM:
        session.receiveItem(message);
        break;
      case Type.COMPLETION:
        session.complete(message);
        break;
      case Type.CLOSE:
        this.#handleEnd(message);
        break;
      case Type.ACK:
        session.acknowledged(message.sequenceId);
        break;
      case Type.SEQUENCE:
        this.#handleSequence(message.sequenceId);
        break;
    }
  }

  #handleSequence(id) {
    if (!this.#session.restart(id)) {
      const reason = "Sequence ID greater than amount of messages we've received.";
      this.#reconnect({ reason, error: new HubError(reason, "protocol") });
      return;
    }
    if (this.#phase !== Phase.SEQUENCE) return;
    this.#replaced.close();
    this.#replaced = null;
    this.#startMessages();
  }

  #handleEnd({ error: text, allowReconnect }) {
    const error = text
      ? new HubError(`Server returned an error on close: ${text}`, "close")
      : undefined;
    if (allowReconnect === true) {
      this.#reconnect({ code: NO_STATUS, reason: "The server asks for it", wasClean: true, error });
    } else {
      this.#close(error);
    }
  }

  #handleClose({ code, reason, wasClean }) {
    if (this.#state === Disconnecting) {
      this.#finish({ code, reason, wasClean, error: this.#stopping.error });
    } else if (this.#finalCodes.has(code)) {
      this.#fail({ code, reason, wasClean });
    } else {
      this.#lose({ code, reason, wasClean });
    }
  }

  /** Handle an error. Node.js 20 dispatches no close event after a failed handshake; browsers do. */
  #handleError({ readyState }) {
    if (readyState !== ReliableWebSocket.CONNECTING) return;
    this.#handleClose({ code: ABNORMAL_CLOSURE, reason: "", wasClean: false });
  }

  // The end of a socket: the session goes on with the next one, or a new one begins, or it is over.

  #lose(cause) {
    if (this.#phase === Phase.MESSAGES && this.#endpoint.isStateful) {
      if (performance.now() - this.#openedAt >= this.#options.minDelay) this.#resumes = 0;
      this.#resumes += 1;
      if (this.#resumes <= MAX_RESUMES) {
        this.#resume();
        return;
      }
    }
    this.#reconnect(cause);
  }

  async #resume() {
    this.#session.detach();
    // A close frame would end the session, if the server still reads from this socket.
    const replaced = this.#socket;
    this.#socket = null;
    this.#release();
    this.#replaced = replaced;
    this.#phase = Phase.SEQUENCE;
    this.#limitAttempt();
    const { signal } = this.#attempt;
    let url;
    try {
      url = await this.#socketURL();
    } catch (error) {
      if (!signal.aborted) this.#reconnect({ reason: "No token", error });
      return;
    }
    if (!signal.aborted) this.#open(url);
  }

  /** Schedule the next attempt, with a session of its own, or give up after too many. */
  #reconnect(given) {
    const cause = this.#endSession(given);
    const next = this.#backoff.lost();
    if (next === null) {
      this.#finish(cause);
      return;
    }
    if (!this.#starting) this.#state = Reconnecting;
    this.dispatchEvent(Object.assign(new Event("reconnecting"), { ...next, ...cause }));
  }

  /** End without another attempt. */
  #fail(given) {
    this.#finish(this.#endSession(given));
  }

  /** End the socket and what belongs to it. Return the cause with all its fields. */
  #endSession({ code = ABNORMAL_CLOSURE, reason, wasClean = false, error }) {
    const why = reason || `close code ${code}`;
    error ??= this.#session
      ? new HubError(`The connection was lost: ${why}.`, "lost")
      : new HubError(`There is no connection: ${why}.${reason ? "" : NOT_TOLD}`, "connect");
    this.#release();
    this.#session?.end(error);
    this.#session = null;
    return { code, reason, wasClean, error };
  }

  /** Close because the server has broken the protocol. */
  #refuse(error) {
    this.#session?.control({ type: Type.CLOSE, error: error.message });
    this.#close(error);
  }

  /** Close the socket for good, and wait for its end. */
  #close(error) {
    this.#state = Disconnecting;
    this.#stopping = { ...deferred(), error };
    this.#session?.end(error ?? new HubError("The connection was stopped.", "lost"));
    this.#session = null;
    this.#stopBeat();
    clearTimeout(this.#timer);
    if (this.#socket?.readyState === ReliableWebSocket.CONNECTING || !this.#socket) {
      this.#release();
      // The events are dispatched after the call has returned.
      const cause = { code: NO_STATUS, reason: "", wasClean: true, error };
      queueMicrotask(() => this.#finish(cause));
      return;
    }
    this.#timer = setTimeout(() => {
      const reason = `Not closed within ${CLOSE_TIMEOUT} ms`;
      this.#finish({ code: ABNORMAL_CLOSURE, reason, wasClean: false, error });
    }, CLOSE_TIMEOUT);
    this.#socket.close();
  }

  #finish({ code, reason, wasClean, error }) {
    this.#release();
    this.#backoff.end();
    this.#state = Disconnected;
    const starting = this.#starting;
    const stopping = this.#stopping;
    this.#starting = this.#stopping = null;
    if (starting) {
      const stopped = "The connection was stopped before the server had answered.";
      starting.reject(error ?? new HubError(stopped, "connect"));
    } else {
      if (error) this.dispatchEvent(Object.assign(new Event("error"), { error }));
      this.dispatchEvent(Object.assign(closeEvent({ code, reason, wasClean }), { error }));
    }
    stopping?.resolve();
  }

  /** End the current attempt and its socket, or the wait for the next attempt. */
  #release() {
    this.#attempt.abort();
    this.#attempt = new AbortController();
    this.#socket?.close();
    this.#replaced?.close();
    this.#socket = this.#replaced = null;
    this.#phase = Phase.HANDSHAKE;
    this.#backoff.cancel();
    clearTimeout(this.#timer);
    this.#stopBeat();
  }

  // Keep-alive: a ping when nothing else was sent for an interval, and an end to silence.

  #beat() {
    const { keepAliveInterval, serverTimeout } = this.#options;
    const now = performance.now();
    const isDead = now >= this.#receivedAt + serverTimeout;
    // After a sleep of the computer, all timers are late, and messages may wait to be dispatched.
    const isLate = now > this.#beatDueAt + LATE;
    const isSuspect = isDead && isLate && this.#suspectedAt <= this.#receivedAt;
    if (isDead && !isSuspect) {
      this.#lose({ reason: `No message for ${serverTimeout} ms` });
      return;
    }
    if (this.#isPingDue()) this.#session.control({ type: Type.PING });
    const pingAt = this.#session.sentAt + keepAliveInterval;
    const deadAt = isSuspect ? now + LATE : this.#receivedAt + serverTimeout;
    if (isSuspect) this.#suspectedAt = now;
    this.#stopBeat();
    this.#beatDueAt = Math.max(Math.min(pingAt, deadAt), now + MIN_TICK);
    this.#beatTimer = setTimeout(() => this.#beat(), this.#beatDueAt - now);
  }

  #isPingDue() {
    return performance.now() >= this.#session.sentAt + this.#options.keepAliveInterval;
  }

  #stopBeat() {
    clearTimeout(this.#beatTimer);
    this.#beatTimer = undefined;
  }

  #wake() {
    if (this.#beatTimer) this.#beat();
  }
}

// Names and values of the page's.

function checkName(name) {
  if (!isName(name)) {
    throw new TypeError(`HubConnection: name must be the name of a method, not ${String(name)}.`);
  }
}

/** Return `name` as it is compared: case and underscores are ignored. */
function keyOf(name) {
  checkName(name);
  return name.toLowerCase().replaceAll("_", "");
}

function checkHandler(handler) {
  if (typeof handler !== "function") {
    throw new TypeError(`HubConnection: handler must be a function, not ${String(handler)}.`);
  }
}

function deferred() {
  let resolve;
  let reject;
  const promise = new Promise((...both) => ([resolve, reject] = both));
  return { promise, resolve, reject };
}
