/** A message: the types that `WebSocket.send()` takes. */
export type Data = string | ArrayBuffer | ArrayBufferView | Blob;

/** The URL to connect to. It may be relative to the page, and `http:` is read as `ws:`. */
export type Address = string | URL | (() => string | URL | Promise<string | URL>);

/** The sub-protocols to offer: one, or a list with the preferred ones first. */
export type Protocols = string | string[];

/** All durations are in milliseconds. */
export interface Options {
  /** The path to connect to without a first argument. Default: that of `{% websocket_client "/ws" %}`. */
  path?: string;

  /** The longest wait before the first attempt to reconnect. The limit doubles with each further attempt. Default: 1,000. */
  minDelay?: number;

  /** The longest wait before any attempt. Default: 30,000. */
  maxDelay?: number;

  /** Failed attempts in a row after which the client gives up. Default: `Infinity`. */
  maxAttempts?: number;

  /** The same before the first connection: the server may refuse this page. Attempts while the browser is offline do not count. Default: 5. */
  maxFirstAttempts?: number;

  /** The longest time for one attempt. Default: 10,000. */
  connectTimeout?: number;

  /** Close codes after which the client does not reconnect, besides 1002, 1003, 1007 to 1010, 3000 and 3003. */
  finalCodes?: number[];

  /** Queue messages while there is no connection; `false` drops them. Default: `true`. */
  queue?: boolean;

  /** The size of that queue in messages. Default: 100. */
  maxQueue?: number;

  /** The time between two heartbeats; `null`: no heartbeat. Default: `HEARTBEAT_INTERVAL`, from the page. */
  heartbeatInterval?: number | null;

  /** The text of a heartbeat; `null`: no heartbeat. Default: `HEARTBEAT_MESSAGE`, from the page. */
  heartbeatMessage?: string | null;

  /** The text that answers a heartbeat. Default: `HEARTBEAT_REPLY`, from the page. */
  heartbeatReply?: string;
}

/** The connection was lost, or an attempt has failed, and another attempt follows. */
export interface ReconnectingEvent extends Event {
  readonly type: "reconnecting";

  /** The number of the attempt that follows, from 1 on. */
  readonly attempt: number;

  /** The time until that attempt. */
  readonly delay: number;

  /** The reason of the loss, as in a `CloseEvent`. */
  readonly code: number;
  readonly reason: string;
  readonly wasClean: boolean;

  /** The exception of the function that returns the URL or the sub-protocols. */
  readonly error?: unknown;
}

/** The client has reconnected. `open` was dispatched just before. */
export interface ReconnectedEvent extends Event {
  readonly type: "reconnected";

  /** The number of attempts since the loss. */
  readonly attempts: number;

  /** The time from the loss until now. */
  readonly downtime: number;
}

/** A heartbeat was answered. */
export interface LatencyEvent extends Event {
  readonly type: "latency";

  /** The time from the heartbeat to its reply. */
  readonly latency: number;
}

export interface ReliableWebSocketEventMap {
  /** A connection is open: the first one, or a later one. */
  open: Event;
  message: MessageEvent;
  /** The client is closed for good. */
  close: CloseEvent;
  /** Comes before `close`, unless the connection was closed in order. */
  error: Event & { readonly error?: unknown };
  reconnecting: ReconnectingEvent;
  reconnected: ReconnectedEvent;
  latency: LatencyEvent;
}

/** The type that an `on...` property returns, as the one of `WebSocket`. */
type NativeHandler<Type extends keyof ReliableWebSocketEventMap> =
  | ((this: WebSocket, event: ReliableWebSocketEventMap[Type]) => any)
  | null;

type Handler<Type extends keyof ReliableWebSocketEventMap> =
  | ((this: ReliableWebSocket, event: ReliableWebSocketEventMap[Type]) => unknown)
  | null;

/**
 * A WebSocket that reconnects, in place of the browser's own.
 *
 * It throws the exceptions of `WebSocket`, and a `TypeError` that names an invalid option.
 */
export class ReliableWebSocket extends EventTarget implements WebSocket {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;

  /** A function for `url` or `protocols` is called before each attempt. */
  constructor(
    url?: Address | null,
    protocols?: Protocols | (() => Protocols | undefined | Promise<Protocols | undefined>),
    options?: Options,
  );

  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;

  readonly url: string;
  /** `CONNECTING` also between a loss and the next connection, until the client gives up. */
  readonly readyState: number;
  readonly protocol: string;
  readonly extensions: string;
  /** The number of bytes that are not sent yet, including the queue. */
  readonly bufferedAmount: number;
  /** Milliseconds from the last heartbeat to its reply; `null` before the first. */
  readonly latency: number | null;
  binaryType: BinaryType;

  get onopen(): NativeHandler<"open">;
  set onopen(handler: Handler<"open">);
  get onmessage(): NativeHandler<"message">;
  set onmessage(handler: Handler<"message">);
  get onclose(): NativeHandler<"close">;
  set onclose(handler: Handler<"close">);
  get onerror(): NativeHandler<"error">;
  set onerror(handler: Handler<"error">);
  onreconnecting: Handler<"reconnecting">;
  onreconnected: Handler<"reconnected">;
  onlatency: Handler<"latency">;

  /**
   * Send a message, or queue it while there is no connection. Delivery is at most once: a message in
   * flight when the connection is lost is not sent again. Throws a `QuotaExceededError` when the queue
   * is full.
   */
  send(data: Data): void;

  /** Close for good, within 10 s. The messages of the queue are dropped. */
  close(code?: number, reason?: string): void;

  /** Start the next attempt now. */
  reconnect(): void;

  addEventListener<Type extends keyof ReliableWebSocketEventMap>(
    type: Type,
    listener: (this: ReliableWebSocket, event: ReliableWebSocketEventMap[Type]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof ReliableWebSocketEventMap>(
    type: Type,
    listener: (this: ReliableWebSocket, event: ReliableWebSocketEventMap[Type]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** Return the settings that `{% websocket_client %}` has put into the page. */
export function pageSettings(): Options;
