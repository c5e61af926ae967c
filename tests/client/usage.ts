// What a page in TypeScript writes, and what it is told that it must not. Compiled, never run.

import { ReliableWebSocket, pageSettings } from "/static/ws_support/client.js";
import { HubConnection, HubConnectionState, HubError } from "/static/ws_support/hub.js";
import { TopicError, TopicSubscription, Topics } from "/static/ws_support/topics.js";

const socket = new ReliableWebSocket("/ws", ["v2", "v1"], { minDelay: 500, queue: false });
new ReliableWebSocket();
new ReliableWebSocket(new URL("wss://example.com/ws"), "v1");
new ReliableWebSocket(async () => `/ws?token=${await Promise.resolve(1)}`, [], {
  ...pageSettings(),
  heartbeatInterval: null,
  finalCodes: [4000],
});

socket.binaryType = "arraybuffer";
socket.onopen = function () {
  const state: number = this.readyState;
  if (state === ReliableWebSocket.OPEN) socket.send("who I am");
};
socket.onmessage = ({ data }) => console.log(data);
socket.onclose = ({ code, reason, wasClean }) => console.log(code + 1, reason.length, !wasClean);
socket.onreconnecting = ({ attempt, delay, code }) => console.log(attempt + delay + code);
socket.addEventListener("reconnected", ({ attempts, downtime }) => console.log(attempts + downtime));
socket.addEventListener("latency", ({ latency }) => console.log(latency.toFixed(1)), { once: true });
socket.send(new Uint8Array([1, 2, 3]));
socket.send(new Blob(["abc"]));
socket.reconnect();
socket.close(4000, "done");
const latency: number | null = socket.latency;
console.log(latency, socket.bufferedAmount, socket.protocol, socket.url);

// In place of WebSocket: where one is taken, and where one is made.
function listen(native: WebSocket): void {
  native.onopen = function () {
    this.send("who I am");
  };
  native.onclose = ({ code }: CloseEvent) => console.log(code);
  native.onerror = (event: Event) => console.log(event.type);
  native.addEventListener("message", ({ data }) => console.log(data));
  native.send(new ArrayBuffer(1));
}
listen(socket);
const made: { socket: WebSocket } = { socket };
const constructor: typeof WebSocket = ReliableWebSocket;
console.log(made, new constructor("/ws", ["v1"]).readyState);

// Handlers of its own.
socket.onopen = function () {
  this.reconnect();
};
socket.onerror = ({ error }) => console.log(error);
socket.onlatency = null;
const handler: ((event: MessageEvent) => unknown) | null = socket.onmessage;
console.log(handler);

// Sub-protocols that are asked for.
new ReliableWebSocket("/ws", () => ["jwt", "token"]);
new ReliableWebSocket("/ws", async () => "v1");
new ReliableWebSocket("/ws", async () => undefined);

// @ts-expect-error: no such option
new ReliableWebSocket("/ws", [], { maxdelay: 1 });
// @ts-expect-error: no number is a URL
new ReliableWebSocket(5);
// @ts-expect-error: no object is a message
socket.send({ text: "Hello" });
// @ts-expect-error: decided by the connection
socket.readyState = 1;
// @ts-expect-error: no number is a sub-protocol
new ReliableWebSocket("/ws", () => 5);
// @ts-expect-error: a handler is a function
socket.onmessage = "no function";

// Hubs.
const hub = new HubConnection("/chat", {
  stateful: true,
  accessTokenFactory: async () => null,
  finalCodes: [4000],
});
new HubConnection(new URL("wss://example.com/chat"));
new HubConnection(async () => "/chat", { accessTokenFactory: () => "token", maxDelay: 500 });
hub.on("ReceiveMessage", function (user: string, message: string) {
  if (this.state === HubConnectionState.Connected) console.log(user + message);
});
hub.on("AskForNumber", async () => 42);
const ask = (question: string) => question.length;
hub.on("Ask", ask);
hub.off("Ask", ask);
hub.off("Ask");
hub.addEventListener("reconnecting", ({ attempt, delay, code, error }) => {
  console.log(attempt + delay + code, error instanceof HubError && error.kind === "lost");
});
hub.addEventListener("reconnected", ({ attempts, downtime, connectionId }) => {
  console.log(attempts + downtime, connectionId?.length);
});
hub.addEventListener("close", ({ code, error }) => console.log(code + 1, error), { once: true });
hub.addEventListener("error", ({ error }) => console.log(error));

async function talk(): Promise<void> {
  await hub.start();
  const sum: number = await hub.invoke<number>("Add", 1, 2);
  const anything = await hub.invoke("Echo", { sum });
  await hub.send("Log", anything.text);
  for await (const item of hub.stream<number>("Counter", 10, 0.5)) console.log(item.toFixed(1));
  async function* numbers() {
    yield 1;
  }
  await hub.invoke("Upload", numbers(), hub.stream("Counter"));
  const state: "Connected" | "Disconnected" | "Connecting" | "Disconnecting" | "Reconnecting" = hub.state;
  const id: string | null = hub.connectionId;
  hub.reconnect();
  await hub.stop();
  console.log(state, id);
}
talk().catch((error: HubError) => console.log(error.kind, error.message));

// @ts-expect-error: no such option
new HubConnection("/chat", { transport: "WebSockets" });
// @ts-expect-error: a hub has a URL
new HubConnection();
// @ts-expect-error: a handler is a function
hub.on("Go", "no function");
// @ts-expect-error: a method has a name
hub.invoke(5);
// @ts-expect-error: decided by the connection
hub.state = "Connected";
// @ts-expect-error: no such kind
console.log(new HubError("text", "other"));
// @ts-expect-error: not exported
import { Backoff } from "/static/ws_support/client.js";

// Topics.
const topics = new Topics();
new Topics("/topics", { shared: true });
new Topics("/topics", { minDelay: 500, accessTokenFactory: () => "token" });
const room: TopicSubscription = topics.subscribe("room/7", {
  since: "stored",
  token: async () => "token",
  snapshot: true,
  presence: { page: "chat" },
});
topics.subscribe("news/sport", { since: null, presence: "watch" });
room.addEventListener("message", function ({ data, position }) {
  console.log(this.name, data.text, position?.length);
});
room.addEventListener("recovered", ({ position, missed }) => console.log(position.length + missed));
room.addEventListener("gap", ({ position }) => console.log(position ?? "without history"));
room.addEventListener("snapshot", ({ state }) => console.log(state.title));
room.addEventListener("presence", ({ members, count }) => console.log(members[0].name, count + 1));
room.addEventListener("error", ({ error, code, willRetry }) => {
  if (error instanceof TopicError && error.code === "forbidden") console.log(error.message);
  if (code === "page") console.log(willRetry);
});
const position: string | null = await room.publish({ text: "hi" }, { echo: false });
const { messages, more } = await room.history({ since: position, limit: 10 });
console.log(messages.map(({ data }) => data.text), more, (await room.members()).count, room.people);
topics.addEventListener("reconnecting", ({ attempt, delay }) => console.log(attempt + delay));
topics.addEventListener("close", ({ error }) => console.log(error));
if (topics.state === "Disconnected") topics.reconnect();
room.unsubscribe();
await topics.stop();

// @ts-expect-error: no such option
topics.subscribe("room/7", { sinse: "stored" });
// @ts-expect-error: a subscription is made by topics
new TopicSubscription();
