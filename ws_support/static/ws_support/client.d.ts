/** A message, as `WebSocket.send()` takes it. */
export type Data = string | ArrayBuffer | ArrayBufferView | Blob;

/** Where to connect to. Relative to the page, and `http:` is read as `ws:`. */
export type Address = string | URL | (() => string | URL | Promise<string | URL>);

/** To offer: each one, or a list with the preferred ones first. */
export type Protocols = string | string[];

/** All durations are in milliseconds. */
export interface Options {
  /** Where to connect to when the first argument is missing: from `{% websocket_client "/ws" %}`. */
  path?: string;

  /** The most that the first attempt to reconnect waits. Each further one may wait twice as long. Default: 1,000. */
  minDelay?: number;

  /** The most that any attempt waits. Default: 30,000. */
  maxDelay?: number;

  /** Attempts in a row after which it is given up. Default: `Infinity`. */
  maxAttempts?: number;

  /** The same for a connection that was never open: the server may refuse this page. Attempts while the browser is offline do not count. Default: 5. */
  maxFirstAttempts?: number;

  /** After which an attempt that is neither open nor refused counts as failed. Default: 10,000. */
  connectTimeout?: number;

  /** Close codes after which it is not tried again, besides 1002, 1003, 1007 to 1010, 3000 and 3003. */
  finalCodes?: number[];

  /** Whether messages wait while there is no connection; otherwise they are dropped. Default: `true`. */
  queue?: boolean;

  /** How many of them may wait. Default: 100. */
  maxQueue?: number;

  /** Between two heartbeats; `null`: none. Default: `HEARTBEAT_INTERVAL`, from the page. */
  heartbeatInterval?: number | null;

  /** Default: `HEARTBEAT_MESSAGE`, from the page. `null`: none. */
  heartbeatMessage?: string | null;

  /** Default: `HEARTBEAT_REPLY`, from the page. */
  heartbeatReply?: string;
}

/** The connection was lost, or an attempt has failed, and there will be another one. */
export interface ReconnectingEvent extends Event {
  readonly type: "reconnecting";

  /** Of the attempt that follows, from 1 on. */
  readonly attempt: number;

  /** Until then. */
  readonly delay: number;

  /** Why: as in a `CloseEvent`. */
  readonly code: number;
  readonly reason: string;
  readonly wasClean: boolean;

  /** What the function threw that is to return the URL or the sub-protocols. */
  readonly error?: unknown;
}

/** The connection is back. `open` has been dispatched just before. */
export interface ReconnectedEvent extends Event {
  readonly type: "reconnected";

  /** How many it has taken. */
  readonly attempts: number;

  /** From the loss until now. */
  readonly downtime: number;
}

/** A heartbeat was answered. */
export interface LatencyEvent extends Event {
  readonly type: "latency";

  /** From the heartbeat to its reply. */
  readonly latency: number;
}

export interface ReliableWebSocketEventMap {
  /** There is a connection: the first, or one more. */
  open: Event;
  message: MessageEvent;
  /** It is over, and will not be tried again. */
  close: CloseEvent;
  /** The same, unless it was closed in order. */
  error: Event & { readonly error?: unknown };
  reconnecting: ReconnectingEvent;
  reconnected: ReconnectedEvent;
  latency: LatencyEvent;
}

/** What a property returns: it takes the place of `WebSocket`'s own. */
type NativeHandler<Type extends keyof ReliableWebSocketEventMap> =
  | ((this: WebSocket, event: ReliableWebSocketEventMap[Type]) => any)
  | null;

type Handler<Type extends keyof ReliableWebSocketEventMap> =
  | ((this: ReliableWebSocket, event: ReliableWebSocketEventMap[Type]) => unknown)
  | null;

/**
 * A WebSocket that comes back, in place of the browser's own.
 *
 * It throws what `WebSocket` throws, and a `TypeError` that names an option that cannot be used.
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
  /** `CONNECTING` also while the connection is lost, until it is back or given up. */
  readonly readyState: number;
  readonly protocol: string;
  readonly extensions: string;
  /** Bytes that are not sent yet, also those that wait for a connection. */
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
   * Send a message, or keep it until there is a connection. At most once: what was on its way when
   * the connection was lost is not sent again. Throws a `QuotaExceededError` when `maxQueue` messages
   * wait already.
   */
  send(data: Data): void;

  /** Close for good, within 10 s. Messages that wait for a connection are dropped. */
  close(code?: number, reason?: string): void;

  /** Do not wait any longer before the next attempt. */
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

/** What `{% websocket_client %}` has put into the page. */
export function pageSettings(): Options;
