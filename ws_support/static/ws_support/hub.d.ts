/** The URL of the hub. It may be relative to the page; `http:` and `ws:` mean the same. */
export type HubAddress = string | URL | (() => string | URL | Promise<string | URL>);

/** All durations are in milliseconds. */
export interface HubOptions {
  /** The longest wait before the first attempt to reconnect. The limit doubles with each further attempt. Default: 1,000. */
  minDelay?: number;

  /** The longest wait before any attempt. Default: 30,000. */
  maxDelay?: number;

  /** Failed attempts in a row after which the client gives up. Default: `Infinity`. */
  maxAttempts?: number;

  /** The same before the first connection: `start()` rejects then. Attempts while the browser is offline do not count. Default: 0, no second attempt. */
  maxFirstAttempts?: number;

  /** The longest time for one attempt: the token, the negotiation, the WebSocket and the handshake. Default: 10,000. */
  connectTimeout?: number;

  /** Close codes after which the client does not reconnect, besides 1002, 1003, 1007 to 1010, 3000 and 3003. */
  finalCodes?: number[];

  /** Called before each request; what it returns is sent to negotiate, as a bearer token. */
  accessTokenFactory?: (() => string | null | undefined | Promise<string | null | undefined>) | null;

  /** Ask the server for a connection that survives the loss of its WebSocket. Default: `false`. */
  stateful?: boolean;

  /** The client sends a ping when it has sent nothing else for so long. Default: 15,000. */
  keepAliveInterval?: number;

  /** The connection is lost when the server has sent nothing for so long. Default: 30,000. */
  serverTimeout?: number;

  /** The most calls and uploads that are under way; also the most answers that the server waits for. Default: 1,000. */
  maxInvocations?: number;

  /** The most calls that wait to be sent, because much is unsent or not acknowledged. Default: 1,000. */
  maxQueue?: number;

  /** Calls and the items of uploads wait while the browser has so many unsent bytes. Default: 1,048,576. */
  maxUnsent?: number;

  /** The most items of a stream that wait to be read, besides those that come at the same time. One more cancels the stream, and the loop ends with an error. Default: 1,000. */
  maxStreamItems?: number;
}

/** What went wrong. */
export class HubError extends Error {
  readonly name: "HubError";

  /**
   * - `server`: the method has failed; the message is the server's
   * - `lost`: the connection ended first; the method may have run or not
   * - `state`: the connection is not `Connected`; nothing was sent
   * - `limit`: `maxInvocations`, `maxQueue` or `maxStreamItems` is reached
   * - `connect`: there is no connection
   * - `close`: the server has closed the connection with an error
   * - `protocol`: the server has sent what is no message of the protocol
   */
  readonly kind: "server" | "lost" | "state" | "limit" | "connect" | "close" | "protocol";

  constructor(message: string, kind: HubError["kind"], options?: ErrorOptions);
}

export const HubConnectionState: {
  readonly Disconnected: "Disconnected";
  readonly Connecting: "Connecting";
  readonly Connected: "Connected";
  readonly Disconnecting: "Disconnecting";
  readonly Reconnecting: "Reconnecting";
};

export type HubConnectionState = keyof typeof HubConnectionState;

/** The connection was lost, or an attempt has failed, and another attempt follows. */
export interface HubReconnectingEvent extends Event {
  readonly type: "reconnecting";

  /** The number of the attempt that follows, from 1 on. */
  readonly attempt: number;

  /** The time until that attempt. */
  readonly delay: number;

  /** The reason of the loss, as in a `CloseEvent`. */
  readonly code: number;
  readonly reason: string;
  readonly wasClean: boolean;

  /** The same as an exception: mostly a `HubError`, or what a function of the page has thrown. */
  readonly error: unknown;
}

/** The client has reconnected, to a connection that is new to the server: its groups, for one, are gone. */
export interface HubReconnectedEvent extends Event {
  readonly type: "reconnected";

  /** The number of attempts since the loss. */
  readonly attempts: number;

  /** The time from the loss until now. */
  readonly downtime: number;

  /** The new `connectionId`. */
  readonly connectionId: string | null;
}

export interface HubConnectionEventMap {
  reconnecting: HubReconnectingEvent;
  reconnected: HubReconnectedEvent;
  /** The connection is closed for good: by `stop()`, by the server, or after too many attempts. */
  close: CloseEvent & { readonly error?: unknown };
  /** Comes before `close`, if there is an error. */
  error: Event & { readonly error: unknown };
}

/**
 * A connection to a SignalR hub, over WebSockets and in JSON.
 *
 * The functions throw, or reject with, a `TypeError` that names a wrong argument.
 */
export class HubConnection extends EventTarget {
  /** A function for `url` is called before each attempt. */
  constructor(url: HubAddress, options?: HubOptions);

  /** `Connected` also while a stateful connection is resumed. */
  readonly state: HubConnectionState;

  /** The id that the server knows the connection by; `null` without `stateful`, since it is not negotiated. */
  readonly connectionId: string | null;

  /** Connect, and wait for the server's answer to the handshake. Rejects when there is no connection; see `maxFirstAttempts`. */
  start(): Promise<void>;

  /** Close for good, within 10 s. What is under way rejects at once. */
  stop(): Promise<void>;

  /** Start the next attempt to reconnect now. */
  reconnect(): void;

  /**
   * Call a method of the hub, and wait for its result.
   *
   * An argument that is an async iterable is sent item by item, after the call. Rejects with a
   * `HubError`, also at once while there is no connection: calls are not queued. They are kept only
   * while a stateful connection is resumed.
   */
  invoke<Result = any>(name: string, ...args: any[]): Promise<Result>;

  /** Call a method of the hub without its result. The promise is resolved when the call is handed to the browser. */
  send(name: string, ...args: any[]): Promise<void>;

  /**
   * Call a method of the hub that returns a stream, for one loop. The call is sent when the loop begins;
   * `break` cancels it. When the loop reads more slowly than the server sends, items wait: see
   * `maxStreamItems`.
   */
  stream<Item = any>(name: string, ...args: any[]): HubStream<Item>;

  /**
   * Call `handler` when the server calls `name`. Case and underscores in names are ignored.
   *
   * What the handler returns, or promises, is the answer where the server wants one.
   */
  on(name: string, handler: (this: HubConnection, ...args: any[]) => any): void;

  /** Remove `handler`, or all handlers of `name`. */
  off(name: string, handler?: (this: HubConnection, ...args: any[]) => any): void;

  addEventListener<Type extends keyof HubConnectionEventMap>(
    type: Type,
    listener: (this: HubConnection, event: HubConnectionEventMap[Type]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof HubConnectionEventMap>(
    type: Type,
    listener: (this: HubConnection, event: HubConnectionEventMap[Type]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** The items of a stream. */
export interface HubStream<Item> extends AsyncIterable<Item> {
  next(): Promise<IteratorResult<Item, void>>;
  /** Cancel the stream. */
  return(value?: unknown): Promise<IteratorResult<Item, any>>;
  [Symbol.asyncIterator](): HubStream<Item>;
}
