// A server of hubs that says what a test says: real HTTP, real WebSockets, and no hub.

import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import WebSockets from "ws";

const BOUND = 5_000; // milliseconds
const SEPARATOR = "\x1e";
const { setTimeout, clearTimeout } = globalThis;

/** Import a module of the client, as one wherever Node.js thinks that it is none. */
export async function hubModule(name = "hub.js") {
  const folder = mkdtempSync(join(tmpdir(), "hub-"));
  process.on("exit", () => rmSync(folder, { recursive: true }));
  const source = fileURLToPath(new URL("../../ws_support/static/ws_support", import.meta.url));
  cpSync(source, folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{"type": "module"}');
  return import(join(folder, name));
}

/** Wait for `promise`, but not for ever. */
export async function within(promise, what = "it") {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} has not come`)), BOUND);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The next event of that type. */
export function event(target, type) {
  const next = new Promise((resolve) => target.addEventListener(type, resolve, { once: true }));
  return within(next, `the event ${type}`);
}

/** Wait until `isTrue()`. */
export async function until(isTrue) {
  const end = performance.now() + BOUND;
  while (!isTrue()) {
    if (performance.now() > end) throw new Error(`not within ${BOUND} ms: ${isTrue}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

class Queue {
  #items = [];
  #readers = [];

  put(item) {
    if (this.#readers.length > 0) this.#readers.shift()(item);
    else this.#items.push(item);
  }

  get size() {
    return this.#items.length;
  }

  take(what) {
    if (this.#items.length > 0) return this.#items.shift();
    return within(new Promise((resolve) => this.#readers.push(resolve)), what);
  }
}

/** The server's side of one WebSocket. */
export class Peer {
  #messages = new Queue();
  socket;
  /** The close code, once it is over. */
  ended;

  constructor(socket, request) {
    this.socket = socket;
    this.url = new URL(request.url, "http://server");
    this.ended = new Promise((resolve) => socket.on("close", resolve));
    socket.on("message", (data) => {
      for (const text of String(data).split(SEPARATOR).slice(0, -1)) {
        this.#messages.put(JSON.parse(text));
      }
    });
  }

  /** The client's next message, whatever it is. */
  any() {
    return this.#messages.take("a message of the client");
  }

  /** The client's next message that is no ping. */
  async next() {
    for (;;) {
      const message = await this.any();
      if (message.type !== 6) return message;
    }
  }

  /** That the client has sent nothing, until it answers now. */
  async nothing() {
    this.says({ type: 1, invocationId: "nothing?", target: "__nobody" });
    const answer = await this.next();
    if (answer.invocationId !== "nothing?") throw new Error(`it has sent ${JSON.stringify(answer)}`);
  }

  /** Say these messages, in one frame. */
  says(...messages) {
    this.raw(messages.map((each) => JSON.stringify({ arguments: [], ...each }) + SEPARATOR).join(""));
  }

  raw(data) {
    this.socket.send(data);
  }

  /** Lose the connection, without a close frame. */
  drop() {
    this.socket.terminate();
  }
}

/** What stands behind a URL: it hands connections to the test, and answers to negotiate. */
export class HubServer {
  #http = createServer((request, response) => this.#respond(request, response));
  #webSockets = new WebSockets.Server({ noServer: true });
  #peers = new Queue();
  /** What negotiate was asked. */
  requests = [];
  /** The answers to negotiate, in turn; the last one stays. */
  negotiations = [];
  /** How many of the next WebSockets are refused with 404. */
  refused = 0;

  static async start() {
    const server = new HubServer();
    server.#http.on("upgrade", (request, socket, head) => {
      socket.on("error", () => {});
      if (server.refused > 0) {
        server.refused -= 1;
        socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
      }
      server.#webSockets.handleUpgrade(request, socket, head, (webSocket) => {
        webSocket.on("error", () => {});
        server.#peers.put(new Peer(webSocket, request));
      });
    });
    await new Promise((resolve) => server.#http.listen(0, "127.0.0.1", resolve));
    return server;
  }

  get url() {
    return `http://127.0.0.1:${this.#http.address().port}/chat`;
  }

  /** How many WebSockets no test has looked at. */
  get waiting() {
    return this.#peers.size;
  }

  /** The next WebSocket. */
  peer() {
    return this.#peers.take("a WebSocket");
  }

  /** The next WebSocket, after its handshake. */
  async accept(response = {}) {
    const peer = await this.peer();
    peer.handshake = await peer.any();
    peer.raw(JSON.stringify(response) + SEPARATOR);
    return peer;
  }

  #respond(request, response) {
    this.requests.push(request);
    const answer = this.negotiations.length > 1 ? this.negotiations.shift() : this.negotiations[0];
    const { status = 200, text } = answer ?? { status: 404, text: "" };
    response.writeHead(status, { "Content-Type": "application/json" });
    response.end(text ?? JSON.stringify(answer));
  }

  stop() {
    for (const client of this.#webSockets.clients) client.terminate();
    this.#http.closeAllConnections();
    return new Promise((resolve) => this.#http.close(resolve));
  }
}
