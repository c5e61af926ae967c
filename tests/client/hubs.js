// The clients that tests connect to hubs, in one shape: that of Microsoft's client.

import http from "node:http";

import {
  HttpTransportType,
  HubConnectionBuilder,
  JsonHubProtocol,
  LogLevel,
  MessageType,
  Subject,
} from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";
import WebSocket from "ws";

import { hubModule } from "./hub_server.js";

const { HubConnection } = await hubModule();

// What Microsoft's client has for EventSource in Node.js would use a connection again after 5 s, which
// is when servers close it, and would not try once more as browsers do.
http.globalAgent = new http.Agent({ keepAlive: false });

if (process.env.HUB_KEEP_ALIVE === "no") {
  // Node.js 20 opens WebSockets on connections that fetch() has used, and fails when a server ends an
  // idle connection at the moment of the next request. Browsers do neither.
  await fetch("data:,");
  const key = Symbol.for("undici.globalDispatcher.1");
  globalThis[key] = new globalThis[key].constructor({ pipelining: 0 });
}

const PROTOCOLS = { json: JsonHubProtocol, messagepack: MessagePackHubProtocol };
const LEVEL = LogLevel[process.env.HUB_LOG ?? "None"];

const sockets = new Set();

class RecordedWebSocket extends WebSocket {
  constructor(...args) {
    super(...args);
    sockets.add(this);
    this.on("close", () => sockets.delete(this));
  }
}

/** Microsoft's client forgets a WebSocket that it was opening when it gave up. */
export function closeForgottenSockets() {
  sockets.forEach((socket) => socket.terminate());
}

/** A client of Microsoft's with one transport and protocol. */
class Microsofts {
  negotiates = true;
  sendsHeaders = true;
  /** How it says that a server does not offer its transport. */
  isNotOffered = /Unable to connect to the server .* is disabled by the client\.$/;

  constructor(transport, protocol, isStateful = false) {
    this.transport = transport;
    this.protocol = protocol;
    this.isStateful = isStateful;
    this.name = `${transport}, ${protocol}${isStateful ? ", stateful" : ""}`;
  }

  /** How it says that a server has refused it. */
  isRefused(status) {
    return new RegExp(`Status code '${status}'`);
  }

  /**
   * A connection that is not started. `delays` are the waits before each attempt to reconnect.
   * `hear` is called with each message of the server. Other options are Microsoft's.
   */
  build(url, { delays, hear = () => {}, serverTimeout, ...options } = {}) {
    const protocol = new PROTOCOLS[this.protocol]();
    const parse = protocol.parseMessages.bind(protocol);
    protocol.parseMessages = (...args) => {
      const messages = parse(...args);
      messages.forEach(hear);
      return messages;
    };
    const builder = new HubConnectionBuilder()
      .withUrl(url, {
        transport: HttpTransportType[this.transport],
        WebSocket: RecordedWebSocket,
        ...options,
      })
      .withHubProtocol(protocol)
      .configureLogging(LEVEL);
    if (delays) builder.withAutomaticReconnect(delays);
    if (this.isStateful) builder.withStatefulReconnect({ bufferSize: 1_000_000 });
    const connection = builder.build();
    if (serverTimeout) {
      // It would count while the client connects, too.
      const start = connection.start.bind(connection);
      connection.start = async () => {
        await start();
        connection.serverTimeoutInMilliseconds = serverTimeout;
      };
    }
    return connection;
  }
}

/** hub.js. Without a stateful reconnect, it does not negotiate. */
class Ours {
  transport = "WebSockets";
  protocol = "json";
  sendsHeaders = false;

  constructor(isStateful = false) {
    this.isStateful = this.negotiates = isStateful;
    this.name = `hub.js${isStateful ? ", stateful" : ""}`;
    this.isNotOffered = isStateful ? /does not offer WebSockets/ : /close code 1006/;
  }

  isRefused(status) {
    // Without a token it does not negotiate, and a browser's WebSocket does not say why it failed.
    return new RegExp(`Status code ${status}|close code 1006`);
  }

  /** Messages that can be heard are those that ask to come back. */
  build(url, { delays, hear, serverTimeout = 30_000, accessTokenFactory = null } = {}) {
    const attempts = delays ? { minDelay: 100, maxDelay: 1_000 } : { maxAttempts: 0 };
    const stateful = this.isStateful;
    const hub = new HubConnection(url, { ...attempts, stateful, serverTimeout, accessTokenFactory });
    hub.addEventListener("reconnecting", ({ reason }) => {
      if (reason === "The server asks for it") hear?.({ type: MessageType.Close, allowReconnect: true });
    });
    return new OurConnection(hub);
  }
}

/** A connection of hub.js in the shape of Microsoft's. */
class OurConnection {
  #hub;

  constructor(hub) {
    this.#hub = hub;
  }

  get connectionId() {
    return this.#hub.connectionId;
  }

  start() {
    return this.#hub.start();
  }

  stop() {
    return this.#hub.stop();
  }

  on(name, handler) {
    this.#hub.on(name, handler);
  }

  invoke(name, ...args) {
    return this.#hub.invoke(name, ...args.map(uploaded));
  }

  send(name, ...args) {
    return this.#hub.send(name, ...args.map(uploaded));
  }

  stream(name, ...args) {
    const items = this.#hub.stream(name, ...args.map(uploaded));
    return {
      subscribe(subscriber) {
        passOn(items, subscriber);
        return { dispose: () => items.return() };
      },
    };
  }

  onclose(handler) {
    this.#hub.addEventListener("close", ({ error }) => handler(error));
  }

  onreconnecting(handler) {
    this.#hub.addEventListener("reconnecting", ({ error }) => handler(error));
  }

  onreconnected(handler) {
    this.#hub.addEventListener("reconnected", ({ connectionId }) => handler(connectionId));
  }
}

/** What hub.js takes for an upload stream: something to iterate over. */
function uploaded(argument) {
  if (!(argument instanceof Subject)) return argument;
  return new ReadableStream({
    start(stream) {
      argument.subscribe({
        next: (item) => stream.enqueue(item),
        error: (error) => stream.error(error),
        complete: () => stream.close(),
      });
    },
  });
}

async function passOn(items, subscriber) {
  try {
    for await (const item of items) subscriber.next(item);
  } catch (error) {
    subscriber.error(error);
    return;
  }
  subscriber.complete();
}

/** Each client with each transport and protocol that go together. */
export const CLIENTS = [
  new Microsofts("WebSockets", "json"),
  new Microsofts("WebSockets", "messagepack"),
  new Microsofts("ServerSentEvents", "json"),
  new Microsofts("LongPolling", "json"),
  new Microsofts("LongPolling", "messagepack"),
  new Ours(),
];

export const STATEFUL_CLIENTS = [
  new Microsofts("WebSockets", "json", true),
  new Microsofts("WebSockets", "messagepack", true),
  new Ours(true),
];
