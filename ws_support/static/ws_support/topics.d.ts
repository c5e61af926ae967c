import type { HubAddress, HubOptions, HubReconnectingEvent } from "./hub.js";

/** All durations are in milliseconds. `maxFirstAttempts` is 5 by default. */
export interface TopicsOptions extends HubOptions {
  /**
   * Have one connection for all tabs of the browser that ask for the same URL with the same options. The URL
   * must be no function, and there is no `accessTokenFactory`. Where the browser cannot do that, each tab has
   * its own. Default: `false`.
   */
  shared?: boolean;
}

export interface SubscribeOptions {
  /**
   * Begin behind this position: what has followed it comes first. `"stored"`: the position that the page
   * before this one had in this tab, so that a reload loses nothing. Default: `null`, with what is new.
   */
  since?: string | null;

  /** What `{% topic_token %}` has put into the page, or a function that returns or promises it, called for each connection. Default: `null`. */
  token?: string | null | (() => string | null | undefined | Promise<string | null | undefined>);

  /** Ask for the state of the topic: at the beginning, and whenever messages were lost. Default: `false`. */
  snapshot?: boolean;

  /** `true`: be present under the topic, and hear who is. An object: the same, with these metadata. `"watch"`: only hear. Default: `false`. */
  presence?: boolean | "watch" | Record<string, unknown>;
}

/** What went wrong. */
export class TopicError extends Error {
  readonly name: "TopicError";

  /**
   * - `forbidden`: the topic is not there, or not for this user, or the token is not good
   * - `invalid`: a name, a position or data that cannot be
   * - `limit`: too many subscriptions, or too many messages at a time
   * - `unavailable`: the server cannot do that now
   * - `server`: the code of the server has failed
   * - `lost`: the connection ended first; a message may have been published or not
   * - `state`: there is no connection; nothing was sent
   * - `busy`: this page has too many calls under way
   * - `connect`, `close`, `protocol`: there is no connection any more, as with a `HubError`
   */
  readonly code:
    | "forbidden"
    | "invalid"
    | "limit"
    | "unavailable"
    | "server"
    | "lost"
    | "state"
    | "busy"
    | "connect"
    | "close"
    | "protocol";
}

/** Somebody who is present under a topic. */
export interface Member {
  /** What tells members apart. */
  readonly key: string;
  /** The primary key of the user; `null` without one. */
  readonly user_id: number | string | null;
  readonly name: string;
  /** The metadata of each connection of the member. */
  readonly entries: readonly any[];
}

export interface TopicMessageEvent extends Event {
  readonly type: "message";
  /** A value if the message was broadcast as JSON; text; Base64 of what was broadcast as bytes. */
  readonly data: any;
  /** `null` for a topic without history. */
  readonly position: string | null;
}

/** The subscription begins: with what is new. */
export interface TopicSubscribedEvent extends Event {
  readonly type: "subscribed";
  readonly position: string | null;
}

/** The subscription goes on, and nothing was lost. What was missed comes next. */
export interface TopicRecoveredEvent extends Event {
  readonly type: "recovered";
  readonly position: string;
  /** How many messages were missed. */
  readonly missed: number;
}

/** Messages were lost: the page has to read anew what it shows. */
export interface TopicGapEvent extends Event {
  readonly type: "gap";
  readonly position: string | null;
}

/** The state of the topic. The messages that follow it come next. */
export interface TopicSnapshotEvent extends Event {
  readonly type: "snapshot";
  readonly state: any;
  readonly position: string | null;
}

export interface TopicPresenceEvent extends Event {
  readonly type: "presence";
  /** True if this is everybody, and what was known before is void. */
  readonly whole: boolean;
  readonly joined: readonly Member[];
  readonly left: readonly Member[];
  /** Members with other entries than before. */
  readonly changed: readonly Member[];
  readonly count: number;
  /** Everybody who is present now. */
  readonly members: readonly Member[];
}

export interface TopicErrorEvent extends Event {
  readonly type: "error";
  /** A `TopicError`, or what a function of the page has thrown. */
  readonly error: unknown;
  /** The code of the `TopicError`; `"page"` for what a function of the page has thrown. */
  readonly code: TopicError["code"] | "page";
  /** True if the subscription is tried again. Otherwise it has ended, or waits for `Topics.reconnect()`. */
  readonly willRetry: boolean;
}

export interface TopicEventMap {
  message: TopicMessageEvent;
  subscribed: TopicSubscribedEvent;
  recovered: TopicRecoveredEvent;
  gap: TopicGapEvent;
  snapshot: TopicSnapshotEvent;
  presence: TopicPresenceEvent;
  error: TopicErrorEvent;
}

/** A part of the history of a topic. */
export interface TopicHistory {
  /** The oldest first. */
  readonly messages: readonly { readonly position: string; readonly data: any }[];
  readonly position: string;
  /** False if the history does not reach back to where it should begin. */
  readonly recovered: boolean;
  /** True if others follow. */
  readonly more: boolean;
}

export interface PublishOptions {
  /** False: the message does not come to this page itself. Default: `true`. */
  echo?: boolean;
}

/** A subscription to one topic. Its functions reject with a `TopicError`. */
export class TopicSubscription extends EventTarget {
  private constructor();

  readonly name: string;

  /** The position of the last message; `null` before it is known, and for topics without history. */
  readonly position: string | null;

  /** Who is present, as far as the page was told. */
  readonly people: readonly Member[];

  /** Publish text, or a value as JSON. Resolves with the position of the message, if the topic has a history. */
  publish(data: unknown, options?: PublishOptions | null): Promise<string | null>;

  /** Read from the history: the last messages, or the first that have followed a position. */
  history(options?: { since?: string | null; limit?: number | null }): Promise<TopicHistory>;

  /** Ask who is present. */
  members(): Promise<{ readonly count: number; readonly members: readonly Member[] }>;

  /** End the subscription. Nothing comes after that. */
  unsubscribe(): void;

  addEventListener<Type extends keyof TopicEventMap>(
    type: Type,
    listener: (this: TopicSubscription, event: TopicEventMap[Type]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof TopicEventMap>(
    type: Type,
    listener: (this: TopicSubscription, event: TopicEventMap[Type]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

export interface TopicsEventMap {
  /** There is a connection for the first time. */
  connected: Event;
  reconnecting: HubReconnectingEvent;
  reconnected: Event & { readonly attempts: number; readonly downtime: number };
  /** The connection is closed for good: by `stop()`, by the server, or after too many attempts. */
  close: Event & { readonly error?: unknown };
}

/** The topics of one hub, to which a page subscribes. */
export class Topics extends EventTarget {
  /** Without a URL, that of `{% websocket_topics %}`. A function is called before each attempt. */
  constructor(url?: HubAddress | null, options?: TopicsOptions);

  readonly state: "Disconnected" | "Connecting" | "Connected" | "Disconnecting" | "Reconnecting";

  /** Subscribe to a topic. There is one subscription for each name; a second one throws a `TypeError`. */
  subscribe(name: string, options?: SubscribeOptions): TopicSubscription;

  /** Publish under a topic, to which the page need not subscribe. */
  publish(name: string, data: unknown, options?: PublishOptions | null): Promise<string | null>;

  /** Try to connect now, also after the connection was closed for good. */
  reconnect(): void;

  /** Close the connection. The subscriptions wait for `reconnect()`. */
  stop(): Promise<void>;

  addEventListener<Type extends keyof TopicsEventMap>(
    type: Type,
    listener: (this: Topics, event: TopicsEventMap[Type]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof TopicsEventMap>(
    type: Type,
    listener: (this: Topics, event: TopicsEventMap[Type]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
