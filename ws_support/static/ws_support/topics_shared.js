// One connection for all tabs of a browser, for topics.js. Where there are shared workers, one of those
// has the connection; else the tab that holds a lock, and when that is closed, the next one.
//
// This file is the script of that worker, too.

import { HubConnection, HubConnectionState, HubError } from "./hub.js";
import { hubURL } from "./hub_protocol.js";

const { Connected, Connecting, Disconnected, Reconnecting } = HubConnectionState;

const NAME = "ws_support-topics";
const CALLED = ["Message", "Snapshot", "Gap", "Presence"];

/** True if pages of this browser can share a connection. */
export function canShare() {
  return "BroadcastChannel" in globalThis && Boolean(globalThis.navigator?.locks);
}

// In each tab.

/** What topics.js needs of a HubConnection, by way of the one that all tabs share. */
export class SharedHub extends EventTarget {
  state = Disconnected;
  #name;
  #tab = crypto.randomUUID();
  #handlers = new Map();
  #calls = new Map();
  #nextId = 0;
  #link = null;
  #starting = null;
  #lostAt = 0;

  constructor(address, options) {
    super();
    if (typeof address === "function" || options.accessTokenFactory) {
      throw new TypeError("Topics: with shared, the URL and the token must not come from functions.");
    }
    new HubConnection(address, options); // It says what is wrong with them.
    this.#name = nameOf(hubURL(address).href, options);
  }

  on(method, handler) {
    this.#handlers.set(method, handler);
  }

  start() {
    this.state = Connecting;
    return new Promise((resolve, reject) => {
      this.#starting = { resolve, reject };
      this.#link ??= connectedLink(this.#name, this.#tab, (message) => this.#hear(message));
      this.#link.hello();
    });
  }

  async stop() {
    // Also after the end: this tab may have the connection for the others.
    this.#link?.bye();
    this.#link = null;
    if (this.state !== Disconnected) this.#end({ code: 1005, reason: "", wasClean: true });
  }

  reconnect() {
    this.#link?.send({ kind: "reconnect" });
  }

  async invoke(target, ...args) {
    if (this.state !== Connected) {
      throw new HubError(`Cannot invoke '${target}' while the connection is ${this.state}.`, "state");
    }
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#link.send({ kind: "call", id, target, args });
      this.#calls.set(id, { resolve, reject });
    });
  }

  #hear({ kind, ...message }) {
    if (this.state === Disconnected) return;
    switch (kind) {
      case "core":
        // Another tab, or this one, has taken over.
        this.#lose({ attempt: 1, delay: 0, code: 1006, reason: "", wasClean: false });
        this.#link.hello();
        break;
      case "connected":
        this.#isConnected(message.attempts);
        break;
      case "reconnecting":
        this.#lose({ ...message.fields, error: revived(message.error) });
        break;
      case "closed":
        this.#end(message.fields, revived(message.error));
        break;
      case "invoke":
        this.#handlers.get(message.target)?.(...message.args);
        break;
      case "answer":
        this.#answer(message);
        break;
    }
  }

  #isConnected(attempts = 1) {
    if (this.state === Connected) return;
    this.state = Connected;
    if (this.#starting) {
      this.#starting.resolve();
      this.#starting = null;
      return;
    }
    const fields = { attempts, downtime: performance.now() - this.#lostAt };
    this.dispatchEvent(Object.assign(new Event("reconnected"), fields));
  }

  #answer({ id, result, error }) {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    if (error) call?.reject(revived(error));
    else call?.resolve(result);
  }

  #lose(fields) {
    if (this.#starting) return;
    if (this.state === Connected) this.#lostAt = performance.now();
    this.state = Reconnecting;
    this.#failCalls();
    this.dispatchEvent(Object.assign(new Event("reconnecting"), fields));
  }

  #end(fields, error) {
    this.state = Disconnected;
    this.#failCalls();
    if (this.#starting) {
      const stopped = "The connection was stopped before the server had answered.";
      this.#starting.reject(error ?? new HubError(stopped, "connect"));
      this.#starting = null;
      return;
    }
    this.dispatchEvent(Object.assign(new Event("close"), { ...fields, error }));
  }

  #failCalls() {
    const error = new HubError("The connection was lost before the answer.", "lost");
    for (const { reject } of this.#calls.values()) reject(error);
    this.#calls.clear();
  }
}

/**
 * The way of one tab to the core. `hello()` has the core know the tab, and `bye()` forget it.
 *
 * As long as the tab lives, it holds a lock, by which the core learns of its end.
 */
function connectedLink(name, tab, hear) {
  let release;
  let isOver = false;
  const held = new Promise((resolve) => (release = resolve));
  const isAlive = new Promise((resolve) => {
    navigator.locks.request(lockOf(name, tab), () => {
      resolve();
      return held;
    });
  });
  const listen = (message) => isOver || hear(message);
  const useLocks = () => {
    lead(name, held);
    return channelPort(name, tab, listen);
  };
  const fallBack = () => {
    port = useLocks();
    hello();
  };
  let port = workerPort(name, listen, fallBack) ?? useLocks();
  const send = (message) => port.postMessage({ ...message, tab });
  const hello = () => isAlive.then(() => isOver || send({ kind: "hello" }));
  return {
    send,
    hello,
    bye() {
      send({ kind: "bye" });
      isOver = true;
      release();
      port.close();
    },
  };
}

/** Return the port of a shared worker, or null without one. `fallBack` is called when it cannot run. */
function workerPort(name, hear, fallBack) {
  let worker;
  try {
    worker = new SharedWorker(import.meta.url, { type: "module", name });
  } catch {
    return null; // There are none, or this file is from another origin.
  }
  let hasAnswered = false;
  // A Content Security Policy may forbid it.
  worker.onerror = () => hasAnswered || fallBack();
  worker.port.onmessage = ({ data }) => {
    hasAnswered = true;
    hear(data);
  };
  return worker.port;
}

/** A channel to whichever tab leads. */
function channelPort(name, tab, hear) {
  const channel = new BroadcastChannel(name);
  channel.onmessage = ({ data: { to, ...message } }) => {
    if (to === tab || to === null) hear(message);
  };
  return {
    postMessage: (message) => channel.postMessage({ ...message, to: "core" }),
    close: () => channel.close(),
  };
}

/** Have the connection for all tabs, once no other tab has it, until `held` is resolved. */
function lead(name, held) {
  const over = new AbortController();
  held.then(() => over.abort());
  const request = navigator.locks.request(`${name} leads`, { signal: over.signal }, () => {
    const channel = new BroadcastChannel(name);
    const core = new Core(name);
    channel.onmessage = ({ data: { to, ...message } }) => {
      if (to !== "core") return;
      core.hear(message, (answer) => channel.postMessage({ ...answer, to: message.tab }));
    };
    channel.postMessage({ kind: "core", to: null });
    return held.then(() => {
      core.stop();
      channel.close();
    });
  });
  request.catch(() => {}); // Aborted: this tab never led.
}

// What tabs have in common is in the name of the worker, of the channel and of the lock.

function nameOf(url, options) {
  const plain = (_, value) => (value === Infinity ? "Infinity" : value);
  return JSON.stringify([NAME, url, options], plain);
}

function named(name) {
  return JSON.parse(name, (_, value) => (value === "Infinity" ? Infinity : value)).slice(1);
}

function lockOf(name, tab) {
  return `${name} ${tab}`;
}

// In one place for all tabs.

/** The connection, and the tabs that share it. */
export class Core {
  #name;
  #hub;
  #tabs = new Map();
  // Which tabs have which topic, with their options: topic -> tab -> options.
  #topics = new Map();
  #stopping = null; // since the last tab has gone

  constructor(name) {
    this.#name = name;
    const [url, options] = named(name);
    const hub = (this.#hub = new HubConnection(url, options));
    for (const target of CALLED) {
      hub.on(target, (...args) => this.#invoke(target, args));
    }
    hub.addEventListener("reconnecting", ({ attempt, delay, code, reason, wasClean, error }) => {
      this.#topics.clear();
      const fields = { attempt, delay, code, reason, wasClean };
      this.#tellAll({ kind: "reconnecting", fields, error: plain(error) });
    });
    hub.addEventListener("reconnected", ({ attempts }) => this.#tellAll({ kind: "connected", attempts }));
    hub.addEventListener("close", ({ code, reason, wasClean, error }) => {
      this.#closed({ code, reason, wasClean }, error);
    });
  }

  /** Take a message of a tab, which is answered with `post`. */
  hear({ kind, tab, ...message }, post) {
    switch (kind) {
      case "hello":
        this.#hello(tab, post);
        break;
      case "bye":
        this.#bye(tab);
        break;
      case "reconnect":
        this.#hub.reconnect();
        break;
      case "call":
        this.#call(tab, message);
        break;
    }
  }

  stop() {
    this.#tabs.clear();
    this.#hub.stop();
  }

  #hello(tab, post) {
    if (!this.#tabs.has(tab)) {
      // The lock is free when the tab is gone, whatever has happened to it.
      navigator.locks.request(lockOf(this.#name, tab), () => this.#bye(tab));
    }
    this.#tabs.set(tab, post);
    if (this.#stopping) return;
    if (this.#hub.state === Connected) post({ kind: "connected" });
    if (this.#hub.state === Disconnected) this.#start();
  }

  #start() {
    this.#hub.start().then(
      () => this.#tellAll({ kind: "connected" }),
      (error) => this.#closed({}, error),
    );
  }

  #closed(fields, error) {
    if (this.#stopping) return;
    this.#topics.clear();
    this.#tellAll({ kind: "closed", fields, error: plain(error) });
  }

  #bye(tab) {
    if (!this.#tabs.delete(tab)) return;
    for (const name of [...this.#topics.keys()]) this.#leave(tab, name).catch(() => {});
    if (this.#tabs.size === 0) this.#stop();
  }

  /** Close the connection, and open another one for a tab that has come meanwhile, such as after a reload. */
  async #stop() {
    if (this.#stopping) return;
    this.#stopping = this.#hub.stop();
    await this.#stopping;
    this.#stopping = null;
    this.#topics.clear();
    if (this.#tabs.size > 0) this.#start();
  }

  #tellAll(message) {
    for (const post of this.#tabs.values()) post(message);
  }

  /** Hand on what the server has sent, to the tabs that have the topic. */
  #invoke(target, args) {
    for (const tab of this.#topics.get(args[0])?.keys() ?? []) {
      this.#tabs.get(tab)?.({ kind: "invoke", target, args });
    }
  }

  async #call(tab, { id, target, args }) {
    const outcome = await this.#answer(tab, target, args).then(
      (result) => ({ result }),
      (error) => ({ error: plain(error) }),
    );
    // Not who was there before: the tab may have gone, or the connection.
    this.#tabs.get(tab)?.({ kind: "answer", id, ...outcome });
  }

  #answer(tab, target, args) {
    if (target === "Subscribe") return this.#subscribe(tab, ...args);
    if (target === "Unsubscribe") return this.#leave(tab, ...args);
    return this.#hub.invoke(target, ...args);
  }

  /**
   * Subscribe for one tab. The server sends again what that tab has missed: the others drop it.
   */
  async #subscribe(tab, name, options) {
    const tabs = this.#topics.get(name) ?? new Map();
    const before = tabs.get(tab);
    this.#topics.set(name, tabs.set(tab, options));
    try {
      return await this.#hub.invoke("Subscribe", name, { ...options, presence: presenceOf(tabs) });
    } catch (error) {
      if (before === undefined) this.#drop(tab, name);
      throw error;
    }
  }

  async #leave(tab, name) {
    const tabs = this.#topics.get(name);
    if (!tabs?.has(tab)) return null;
    const before = presenceOf(tabs);
    this.#drop(tab, name);
    if (tabs.size === 0) return this.#hub.invoke("Unsubscribe", name);
    const presence = presenceOf(tabs);
    if (JSON.stringify(presence) !== JSON.stringify(before)) {
      const [{ token }] = tabs.values();
      await this.#hub.invoke("Subscribe", name, { token, presence });
    }
    return null;
  }

  #drop(tab, name) {
    const tabs = this.#topics.get(name);
    tabs?.delete(tab);
    if (tabs?.size === 0) this.#topics.delete(name);
  }
}

/** Return how one connection is present for several tabs: as the first that wants to be, or to watch. */
function presenceOf(tabs) {
  const wishes = [...tabs.values()].map(({ presence }) => presence);
  return wishes.find((each) => each && each !== "watch") ?? (wishes.includes("watch") ? "watch" : false);
}

// Errors on their way from one tab to another.

function plain(error) {
  return error && { kind: error.kind, message: error.message ?? String(error) };
}

function revived(error) {
  if (!error) return undefined;
  return error.kind ? new HubError(error.message, error.kind) : new TypeError(error.message);
}

// As the script of a shared worker.

if (globalThis.SharedWorkerGlobalScope && globalThis instanceof SharedWorkerGlobalScope) {
  const core = new Core(globalThis.name);
  globalThis.onconnect = ({ ports: [port] }) => {
    port.onmessage = ({ data }) => core.hear(data, (answer) => port.postMessage(answer));
  };
}
