// What hub.js says to a server, and what it hears: negotiation, and the messages of the JSON protocol.

import { absolute } from "./client.js";

export const Type = Object.freeze({
  INVOCATION: 1,
  STREAM_ITEM: 2,
  COMPLETION: 3,
  STREAM_INVOCATION: 4,
  CANCEL_INVOCATION: 5,
  PING: 6,
  CLOSE: 7,
  ACK: 8,
  SEQUENCE: 9,
});

// The messages that are numbered, and repeated after a stateful reconnect.
export const COUNTED = new Set([
  Type.INVOCATION,
  Type.STREAM_ITEM,
  Type.COMPLETION,
  Type.STREAM_INVOCATION,
  Type.CANCEL_INVOCATION,
]);

const SEPARATOR = "\x1e";
const MAX_REDIRECTS = 100;

/** What went wrong. `kind` says where, in one word: see hub.d.ts. */
export class HubError extends Error {
  constructor(message, kind, options) {
    super(message, options);
    this.name = "HubError";
    this.kind = kind;
  }
}

// Messages: objects, each with a separator behind it.

export function written(message) {
  return JSON.stringify(message) + SEPARATOR;
}

export function writtenCall(call) {
  try {
    return written(call);
  } catch (error) {
    throw new TypeError(
      `HubConnection: the arguments of '${call.target}' must fit into JSON: ${error.message}`,
      { cause: error },
    );
  }
}

export function writtenItem(invocationId, item) {
  // What JSON cannot hold is null, as it is in a list: servers need an item.
  const value = JSON.stringify(item) ?? "null";
  const type = Type.STREAM_ITEM;
  return `{"type":${type},"invocationId":"${invocationId}","item":${value}}${SEPARATOR}`;
}

export function completion(invocationId, outcome) {
  return { type: Type.COMPLETION, invocationId, ...outcome };
}

export function records(data) {
  if (typeof data !== "string") throw broken("binary data");
  if (data === "") return [];
  if (!data.endsWith(SEPARATOR)) throw broken("an incomplete message");
  return data.slice(0, -1).split(SEPARATOR);
}

export function parsedObject(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw broken("what is no JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw broken("JSON that is no object");
  }
  return value;
}

// The keys that a message must have. Types that are not here are ignored: newer servers may have more.
const KEYS = {
  [Type.INVOCATION]: {
    target: isName,
    arguments: Array.isArray,
    invocationId: (value) => value === undefined || isName(value),
  },
  [Type.STREAM_ITEM]: { invocationId: isName, item: (value) => value !== undefined },
  [Type.COMPLETION]: { invocationId: isName, error: isText },
  [Type.CLOSE]: { error: isText },
  [Type.ACK]: { sequenceId: Number.isSafeInteger },
  [Type.SEQUENCE]: { sequenceId: (value) => Number.isSafeInteger(value) && value > 0 },
};

export function parsed(record) {
  const message = parsedObject(record);
  if (typeof message.type !== "number") throw broken("a message without a type");
  for (const [key, isGood] of Object.entries(KEYS[message.type] ?? {})) {
    if (!isGood(message[key])) throw broken(`a message of type ${message.type} with a bad ${key}`);
  }
  if (message.type === Type.COMPLETION && message.result && message.error) {
    throw broken("a result that is an error as well");
  }
  return message;
}

function isText(value) {
  return value === undefined || value === null || typeof value === "string";
}

export function isName(value) {
  return typeof value === "string" && value !== "";
}

export function broken(what) {
  return new HubError(`The server has broken the protocol: it sent ${what}.`, "protocol");
}

// Negotiation.

/** Return where the hub is in the end, and the connection that the server has made there. */
export async function negotiated(url, token, signal, isStateful) {
  let redirected = null;
  for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
    const response = await negotiate(url, redirected ?? token, signal, isStateful);
    if (!response.url) return endpoint(url, redirected, response);
    url = redirectedURL(response.url);
    if (typeof response.accessToken === "string") redirected = response.accessToken;
  }
  throw new HubError(`The server has redirected more than ${MAX_REDIRECTS} times.`, "connect");
}

async function negotiate(url, token, signal, isStateful) {
  const asked = withQuery(url, "negotiateVersion", 1);
  const address = isStateful ? withQuery(asked, "useStatefulReconnect", true) : asked;
  address.protocol = address.protocol.replace("ws", "http");
  address.pathname = address.pathname.replace(/\/?$/, "/negotiate");
  // ASP.NET answers those that name themselves so with 401 instead of its page for a login.
  const headers = { "X-Requested-With": "XMLHttpRequest" };
  if (token) headers.Authorization = `Bearer ${token}`;
  let text;
  try {
    const options = { method: "POST", credentials: "include", cache: "no-store", headers, signal };
    const response = await fetch(address, options);
    if (!response.ok) throw new Error(`Status code ${response.status}`);
    text = await response.text();
  } catch (error) {
    throw new HubError(`Failed to negotiate: ${error.message}.`, "connect", { cause: error });
  }
  const response = parsedObject(text);
  if (response.error) throw new HubError(`Failed to negotiate: ${response.error}`, "connect");
  return response;
}

function endpoint(url, token, response) {
  const { negotiateVersion, connectionId, connectionToken, availableTransports } = response;
  const id = negotiateVersion >= 1 ? connectionToken : connectionId;
  if (typeof id !== "string") throw broken("an answer to negotiate that has no connection");
  const offers = Array.isArray(availableTransports) ? availableTransports : [];
  if (!offers.some((each) => each?.transport === "WebSockets")) {
    throw new HubError("The server does not offer WebSockets for this hub.", "connect");
  }
  const isStateful = response.useStatefulReconnect === true;
  return { url: withQuery(url, "id", id), token, connectionId, isStateful };
}

/** Return a URL of the page's, from where the page is, with ws: or wss:. */
export function hubURL(given) {
  const isURL = typeof given === "string" || typeof given?.href === "string";
  const url = isURL ? webSocketURL(absolute(given)) : null;
  if (url) return url;
  throw new TypeError(
    `HubConnection: url must be a path of this page, or a URL with http: or https:, not ${given}.`,
  );
}

function redirectedURL(given) {
  const url = webSocketURL(given);
  if (url) return url;
  throw new HubError(`The server redirects to ${given}, not to a URL with http: or https:.`, "connect");
}

function webSocketURL(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    return null;
  }
  url.protocol = url.protocol.replace(/^http/, "ws");
  url.hash = "";
  return /^wss?:$/.test(url.protocol) ? url : null;
}

export function withQuery(url, name, value) {
  const result = new URL(url);
  result.search += `${result.search ? "&" : "?"}${name}=${encodeURIComponent(value)}`;
  return result;
}
