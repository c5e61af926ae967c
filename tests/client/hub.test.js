// The client of hubs, against a real server that says what each test says.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { HubServer, event, hubModule, until, within } from "./hub_server.js";

const { HubConnection, HubConnectionState, HubError } = await hubModule();

const reported = [];
globalThis.reportError = (error) => reported.push(error);

let server;
let hubs;

beforeEach(async () => {
  server = await HubServer.start();
  hubs = [];
  reported.length = 0;
});

afterEach(async () => {
  for (const hub of hubs) hub.stop();
  await server.stop();
});

function made(options, url = server.url) {
  const hub = new HubConnection(url, { minDelay: 1, ...options });
  hubs.push(hub);
  return hub;
}

/** A connection after its handshake, and the server's side of it. */
async function connected(options, url) {
  const hub = made(options, url);
  const [peer] = await Promise.all([server.accept(), within(hub.start())]);
  return { hub, peer };
}

/** The events of a connection, from now on. */
function recorded(hub) {
  const events = [];
  for (const type of ["reconnecting", "reconnected", "error", "close"]) {
    hub.addEventListener(type, (each) => events.push(each));
  }
  Object.defineProperty(events, "types", { get: () => events.map(({ type }) => type) });
  return events;
}

function failing(kind, message) {
  return (error) => {
    assert.ok(error instanceof HubError, error.stack);
    assert.equal(error.name, "HubError");
    assert.equal(error.kind, kind);
    assert.match(error.message, message);
    return true;
  };
}

const OFFER = {
  negotiateVersion: 1,
  connectionId: "public",
  connectionToken: "secret",
  availableTransports: [{ transport: "WebSockets", transferFormats: ["Text", "Binary"] }],
};

describe("start()", () => {
  test("sends the handshake and waits for the answer", async () => {
    const hub = made();
    assert.equal(hub.state, "Disconnected");
    let hasStarted = false;
    const start = hub.start().then(() => (hasStarted = true));
    assert.equal(hub.state, "Connecting");
    const peer = await server.peer();
    assert.deepEqual(await peer.any(), { protocol: "json", version: 1 });
    assert.equal(peer.url.href, "http://server/chat");
    assert.equal(hasStarted, false);
    peer.raw("{}\x1e");
    await within(start);
    assert.equal(hub.state, "Connected");
    assert.equal(hub.connectionId, null);
    assert.equal(server.requests.length, 0);
  });

  test("is followed by a ping, from which on the server notices silence", async () => {
    const { peer } = await connected();
    assert.deepEqual(await peer.any(), { type: 6 });
  });

  test("takes messages that come with the answer", async () => {
    const hub = made();
    const calls = [];
    hub.on("Hello", (name) => calls.push(name));
    const start = hub.start();
    const peer = await server.peer();
    peer.raw('{}\x1e{"type":1,"target":"Hello","arguments":["you"]}\x1e');
    await within(start);
    assert.deepEqual(calls, ["you"]);
  });

  for (const [what, answer, kind, message] of [
    ["refuses", '{"error":"no"}\x1e', "connect", /^Server returned handshake error: no$/],
    ["answers with a message", '{"type":6}\x1e', "protocol", /answer to the handshake/],
    ["answers with what is no object", "[]\x1e", "protocol", /no object/],
    ["answers with half a message", "{}", "protocol", /incomplete/],
  ]) {
    test(`rejects when the server ${what}, and may be called again`, async () => {
      const hub = made();
      const events = recorded(hub);
      const start = hub.start();
      const peer = await server.peer();
      peer.raw(answer);
      await assert.rejects(within(start), failing(kind, message));
      assert.equal(hub.state, "Disconnected");
      assert.deepEqual(events.types, []);
      await within(peer.ended);
      await Promise.all([server.accept(), within(hub.start())]);
      assert.equal(hub.state, "Connected");
    });
  }

  test("rejects when the server closes, and says with what", async () => {
    const hub = made();
    const start = hub.start();
    (await server.peer()).socket.close(3000, "Log in first");
    await assert.rejects(within(start), failing("connect", /Log in first/));
  });

  test("rejects when there is no server", async () => {
    const hub = made();
    server.refused = 1;
    await assert.rejects(within(hub.start()), failing("connect", /close code 1006/));
  });

  test("rejects what is no hub, but an echo", async () => {
    const hub = made();
    const start = hub.start();
    const peer = await server.peer();
    peer.raw(`${JSON.stringify(await peer.next())}\u001e`);
    await assert.rejects(within(start), failing("protocol", /a message where the answer/));
  });

  test("tries again as often as it may", async () => {
    const hub = made({ maxFirstAttempts: 2 });
    const events = recorded(hub);
    server.refused = 2;
    const [peer] = await Promise.all([server.accept(), within(hub.start())]);
    assert.deepEqual(events.types, ["reconnecting", "reconnecting"]);
    assert.deepEqual(events.map(({ attempt }) => attempt), [1, 2]);
    assert.ok(peer);
  });

  test("rejects while there is a connection", async () => {
    const { hub } = await connected();
    await assert.rejects(hub.start(), failing("state", /Disconnected, not Connected/));
    assert.equal(hub.state, "Connected");
  });

  test("makes a URL with ws: or http: the same, without its fragment", async () => {
    const url = `${server.url.replace("http", "ws")}?room=a%20b#top`;
    const { peer } = await connected({}, new URL(url));
    assert.equal(peer.url.href, "http://server/chat?room=a%20b");
  });

  test("asks a function for the URL, before each attempt", async () => {
    let count = 0;
    const { hub, peer } = await connected({}, async () => `${server.url}?attempt=${++count}`);
    assert.equal(peer.url.search, "?attempt=1");
    peer.drop();
    const [again] = await Promise.all([server.accept(), event(hub, "reconnected")]);
    assert.equal(again.url.search, "?attempt=2");
  });

  test("rejects with the exception of that function", async () => {
    const error = new Error("away");
    const hub = made({}, () => Promise.reject(error));
    await assert.rejects(hub.start(), error);
    assert.equal(hub.state, "Disconnected");
  });

  test("rejects with the exception of WebSocket", async () => {
    const hub = made({ maxFirstAttempts: 5 });
    const native = globalThis.WebSocket;
    globalThis.WebSocket = class {
      constructor() {
        throw new DOMException("insecure", "SecurityError");
      }
    };
    try {
      await assert.rejects(hub.start(), { name: "SecurityError" });
    } finally {
      globalThis.WebSocket = native;
    }
  });

  test("sends a token in a header, and what the server gives in its place in the URL", async () => {
    let count = 0;
    const accessTokenFactory = async () => `t/${++count}`;
    const redirect = { url: `${server.url}?a=1`, accessToken: "ticket" };
    server.negotiations = [redirect, OFFER, redirect, OFFER];
    const { hub, peer } = await connected({ accessTokenFactory }, `${server.url}?a=1`);
    assert.equal(peer.url.search, "?a=1&id=secret&access_token=ticket");
    assert.equal(peer.handshake.version, 1);
    peer.drop();
    const [again] = await Promise.all([server.accept(), event(hub, "reconnected")]);
    assert.equal(again.url.search, "?a=1&id=secret&access_token=ticket");
    assert.deepEqual(
      server.requests.map(({ url, headers }) => [url, headers.authorization]),
      [
        ["/chat/negotiate?a=1&negotiateVersion=1", "Bearer t/1"],
        ["/chat/negotiate?a=1&negotiateVersion=1", "Bearer ticket"],
        ["/chat/negotiate?a=1&negotiateVersion=1", "Bearer t/2"],
        ["/chat/negotiate?a=1&negotiateVersion=1", "Bearer ticket"],
      ],
    );
  });

  test("has no token where the function returns none, and rejects what is no text", async () => {
    server.negotiations = [OFFER];
    const { peer } = await connected({ accessTokenFactory: () => null });
    assert.equal(peer.url.search, "?id=secret");
    const hub = made({ accessTokenFactory: () => 5 });
    await assert.rejects(hub.start(), { name: "TypeError", message: /accessTokenFactory/ });
  });
});

describe("invoke()", () => {
  test("sends the arguments and returns the result", async () => {
    const { hub, peer } = await connected();
    const sum = hub.invoke("Add", 1, undefined, { a: [2] });
    const { invocationId, ...call } = await peer.next();
    assert.deepEqual(call, { type: 1, target: "Add", arguments: [1, null, { a: [2] }] });
    assert.equal(typeof invocationId, "string");
    peer.says({ type: 3, invocationId, result: 3, error: null });
    assert.equal(await within(sum), 3);
  });

  test("gives each call its own answer", async () => {
    const { hub, peer } = await connected();
    const answers = [hub.invoke("A"), hub.invoke("B"), hub.invoke("C")];
    const [a, b, c] = [await peer.next(), await peer.next(), await peer.next()];
    const says = ({ invocationId }, rest) => peer.says({ type: 3, invocationId, ...rest });
    says(c, {});
    says(a, { result: null });
    says(b, { result: false });
    assert.deepEqual(await within(Promise.all(answers)), [null, false, undefined]);
  });

  test("rejects with the text of the server", async () => {
    const { hub, peer } = await connected();
    const answer = hub.invoke("Add");
    const { invocationId } = await peer.next();
    peer.says({ type: 3, invocationId, error: "Only numbers" });
    await assert.rejects(within(answer), failing("server", /^Only numbers$/));
  });

  test("rejects when the connection is lost, and at once until it is back", async () => {
    const { hub, peer } = await connected();
    const answer = hub.invoke("Add");
    await peer.next();
    peer.drop();
    await assert.rejects(within(answer), failing("lost", /'Add' has no answer.*connection was lost/));
    assert.equal(hub.state, "Reconnecting");
    await assert.rejects(hub.invoke("Add"), failing("state", /Cannot invoke 'Add'.*Reconnecting/));
    await assert.rejects(hub.send("Add"), failing("state", /Cannot send 'Add'/));
    await assert.rejects(hub.stream("Add").next(), failing("state", /Cannot stream 'Add'/));
  });

  test("rejects before the start and after the end", async () => {
    const hub = made();
    await assert.rejects(hub.invoke("Add"), failing("state", /Disconnected/));
    await Promise.all([server.accept(), within(hub.start())]);
    await within(hub.stop());
    await assert.rejects(hub.invoke("Add"), failing("state", /Disconnected/));
  });

  test("rejects when too many calls are under way, and not when they have been", async () => {
    const { hub, peer } = await connected({ maxInvocations: 2 });
    const answers = [hub.invoke("A"), hub.stream("B").next()];
    await assert.rejects(hub.invoke("C"), failing("limit", /'C' was not sent.*maxInvocations/));
    const { invocationId } = await peer.next();
    peer.says({ type: 3, invocationId });
    await within(answers[0]);
    const third = hub.invoke("C");
    await peer.next();
    assert.equal((await peer.next()).target, "C");
    for (const answer of [answers[1], third]) answer.catch(() => {});
  });

  test("rejects what does not fit into JSON, and sends nothing", async () => {
    const { hub, peer } = await connected();
    const named = { name: "TypeError", message: /arguments of 'Add' must fit into JSON/ };
    await assert.rejects(hub.invoke("Add", 1n), named);
    await peer.nothing();
  });

  test("ignores answers to what nobody has asked", async () => {
    const { hub, peer } = await connected();
    const answer = hub.invoke("Add");
    const { invocationId } = await peer.next();
    peer.says({ type: 3, invocationId: "99", result: 1 }, { type: 2, invocationId: "99", item: 1 });
    peer.says({ type: 2, invocationId, item: 1 }, { type: 3, invocationId, result: 2 });
    peer.says({ type: 3, invocationId, result: 3 });
    assert.equal(await within(answer), 2);
    await peer.nothing();
  });
});

test("send() has no id and does not wait for an answer", async () => {
  const { hub, peer } = await connected();
  await within(hub.send("Hello", "you"));
  assert.deepEqual(await peer.next(), { type: 1, target: "Hello", arguments: ["you"] });
});

describe("on()", () => {
  test("calls all handlers in their order, whatever case and underscores a name has", async () => {
    const { hub, peer } = await connected();
    const calls = [];
    hub.on("ReceiveMessage", (...args) => calls.push(["one", ...args]));
    hub.on("receive_message", function () {
      calls.push(["two", this === hub]);
    });
    peer.says({ type: 1, target: "RECEIVE_message", arguments: ["user", 5] });
    await peer.nothing();
    assert.deepEqual(calls, [["one", "user", 5], ["two", true]]);
  });

  test("adds a handler once, and off() removes it or all", async () => {
    const { hub, peer } = await connected();
    const calls = [];
    const [one, two, three] = ["one", "two", "three"].map((name) => () => calls.push(name));
    for (const handler of [one, one, two, three]) hub.on("Go", handler);
    hub.off("g_o", two);
    hub.off("Other");
    hub.off("Other", one);
    peer.says({ type: 1, target: "Go" });
    await peer.nothing();
    assert.deepEqual(calls, ["one", "three"]);
    hub.off("Go");
    peer.says({ type: 1, target: "Go" });
    await peer.nothing();
    assert.deepEqual(calls, ["one", "three"]);
  });

  test("lets a handler remove itself while it is called", async () => {
    const { hub, peer } = await connected();
    const calls = [];
    const once = () => {
      calls.push("once");
      hub.off("Go", once);
    };
    hub.on("Go", once);
    hub.on("Go", () => calls.push("always"));
    peer.says({ type: 1, target: "Go" }, { type: 1, target: "Go" });
    await peer.nothing();
    assert.deepEqual(calls, ["once", "always", "always"]);
  });

  test("reports what handlers throw, and goes on", async () => {
    const { hub, peer } = await connected();
    const calls = [];
    hub.on("Go", () => {
      throw new Error("mistake");
    });
    hub.on("Go", async () => {
      throw new Error("later");
    });
    hub.on("Go", () => calls.push("called"));
    peer.says({ type: 1, target: "Go" });
    await peer.nothing();
    assert.deepEqual(reported.map(({ message }) => message), ["mistake", "later"]);
    assert.deepEqual(calls, ["called"]);
  });

  test("warns once for each name that has no handler", async () => {
    const { hub, peer } = await connected();
    const { warn } = console;
    const seen = [];
    hub.on("Go", () => {});
    console.warn = (text) => seen.push(text);
    try {
      for (const target of ["Go", "ReceiveMessage", "receive_message", "Other", "Other"]) {
        peer.says({ type: 1, target });
      }
      await peer.nothing(); // It calls a name, too.
    } finally {
      console.warn = warn;
    }
    const warned = seen.filter((text) => !text.includes("__nobody"));
    assert.deepEqual(
      warned,
      ["ReceiveMessage", "Other"].map(
        (name) => `HubConnection: the hub has called '${name}', for which on() has no handler.`,
      ),
    );
  });

  test("reports to the console where there is nothing else, as in Node.js", async () => {
    const { hub, peer } = await connected();
    const { reportError } = globalThis;
    const { error } = console;
    const seen = [];
    hub.on("Go", () => {
      throw new Error("mistake");
    });
    delete globalThis.reportError;
    console.error = (each) => seen.push(each.message);
    try {
      peer.says({ type: 1, target: "Go" });
      await peer.nothing();
    } finally {
      console.error = error;
      globalThis.reportError = reportError;
    }
    assert.deepEqual(seen, ["mistake"]);
  });
});

describe("an invocation that wants a result", () => {
  const fails = () => {
    throw new Error("mistake");
  };
  for (const [what, handlers, answer] of [
    ["gets what the handler returns", [() => 42], { result: 42 }],
    ["gets what the handler promises", [async () => null], { result: null }],
    ["gets the arguments to the handler", [(a, b) => a + b], { result: 3 }],
    ["gets the one result of several handlers", [() => {}, () => 0, () => {}], { result: 0 }],
    ["gets an error without a handler", [], { error: "Client didn't provide a result." }],
    ["gets an error without a result", [() => {}], { error: "Client didn't provide a result." }],
    ["gets an error for two results", [() => 1, () => 2], { error: "Client provided multiple results." }],
    ["gets what the handler throws", [fails], { error: "Error: mistake" }],
    ["gets what the last handler throws", [() => 1, fails], { error: "Error: mistake" }],
    ["gets a result after an exception", [fails, () => 1], { result: 1 }],
  ]) {
    test(what, async () => {
      const { hub, peer } = await connected();
      for (const handler of handlers) hub.on("Ask", handler);
      peer.says({ type: 1, invocationId: "s1", target: "ask", arguments: [1, 2] });
      assert.deepEqual(await peer.next(), { type: 3, invocationId: "s1", ...answer });
      assert.equal(reported.length, handlers.includes(fails) ? 1 : 0);
    });
  }

  test("gets an error for a result that does not fit into JSON", async () => {
    const { hub, peer } = await connected();
    hub.on("Ask", () => 1n);
    peer.says({ type: 1, invocationId: "s1", target: "Ask" });
    assert.match((await peer.next()).error, /^TypeError: .*BigInt/);
  });

  test("gets no answer on another connection", async () => {
    const { hub, peer } = await connected();
    let answer;
    hub.on("Ask", () => new Promise((resolve) => (answer = resolve)));
    peer.says({ type: 1, invocationId: "s1", target: "Ask" });
    await until(() => answer);
    peer.drop();
    const [again] = await Promise.all([server.accept(), event(hub, "reconnected")]);
    answer(42);
    await again.nothing();
  });

  test("gets an error when too many have none yet", async () => {
    const { hub, peer } = await connected({ maxInvocations: 1 });
    let answer;
    let asked = 0;
    hub.on("Ask", () => {
      asked += 1;
      return new Promise((resolve) => (answer = resolve));
    });
    const ask = { type: 1, target: "Ask" };
    peer.says({ ...ask, invocationId: "a" }, { ...ask, invocationId: "b" });
    const { invocationId, error } = await peer.next();
    assert.equal(invocationId, "b");
    assert.match(error, /too many/);
    answer(1);
    assert.deepEqual(await peer.next(), { type: 3, invocationId: "a", result: 1 });
    peer.says({ type: 1, invocationId: "c", target: "Ask" });
    await until(() => asked === 2);
  });
});

describe("stream()", () => {
  test("sends the call when the loop begins, and returns the items", async () => {
    const { hub, peer } = await connected();
    const stream = hub.stream("Counter", 3, 0.5);
    await peer.nothing();
    const items = [];
    const loop = (async () => {
      for await (const item of stream) items.push(item);
    })();
    const { invocationId, ...call } = await peer.next();
    assert.deepEqual(call, { type: 4, target: "Counter", arguments: [3, 0.5] });
    peer.says({ type: 2, invocationId, item: 1 }, { type: 2, invocationId, item: null });
    peer.says({ type: 3, invocationId, result: "ignored" });
    await within(loop);
    assert.deepEqual(items, [1, null]);
    assert.deepEqual(await stream.next(), { done: true, value: undefined });
  });

  test("is cancelled by a break, once, and what still comes is ignored", async () => {
    const { hub, peer } = await connected();
    const loop = (async () => {
      for await (const item of hub.stream("Counter")) if (item === 2) break;
    })();
    const { invocationId } = await peer.next();
    for (let item = 1; item < 5; item++) peer.says({ type: 2, invocationId, item });
    await within(loop);
    assert.deepEqual(await peer.next(), { type: 5, invocationId });
    peer.says({ type: 2, invocationId, item: 5 }, { type: 3, invocationId });
    await peer.nothing();
  });

  test("is not cancelled when it is over, or has not begun", async () => {
    const { hub, peer } = await connected();
    const stream = hub.stream("Counter");
    const first = stream.next();
    const { invocationId } = await peer.next();
    peer.says({ type: 3, invocationId });
    assert.deepEqual(await within(first), { done: true, value: undefined });
    assert.deepEqual(await stream.return(5), { done: true, value: 5 });
    const other = hub.stream("Counter");
    await other.return();
    assert.deepEqual(await other.next(), { done: true, value: undefined });
    await peer.nothing();
  });

  test("ends what waits for items when it is cancelled", async () => {
    const { hub, peer } = await connected();
    const stream = hub.stream("Counter");
    const waiting = [stream.next(), stream.next()];
    const { invocationId } = await peer.next();
    peer.says({ type: 2, invocationId, item: 1 });
    assert.deepEqual(await within(waiting[0]), { done: false, value: 1 });
    await stream.return();
    assert.deepEqual(await within(waiting[1]), { done: true, value: undefined });
  });

  test("throws the server's error after the items", async () => {
    const { hub, peer } = await connected();
    const stream = hub.stream("Counter");
    const first = stream.next();
    const { invocationId } = await peer.next();
    peer.says({ type: 2, invocationId, item: 1 }, { type: 2, invocationId, item: 2 });
    peer.says({ type: 3, invocationId, error: "No more" });
    await peer.nothing();
    assert.equal((await first).value, 1);
    assert.equal((await stream.next()).value, 2);
    await assert.rejects(stream.next(), failing("server", /No more/));
    assert.equal((await stream.next()).done, true);
  });

  test("throws when the connection is lost", async () => {
    const { hub, peer } = await connected();
    const first = hub.stream("Counter").next();
    await peer.next();
    peer.drop();
    await assert.rejects(within(first), failing("lost", /'Counter'/));
  });

  test("is cancelled when too many items wait, and throws after them", async () => {
    const { hub, peer } = await connected({ maxStreamItems: 2 });
    const stream = hub.stream("Counter");
    const first = stream.next();
    const { invocationId } = await peer.next();
    for (let item = 1; item < 4; item++) {
      peer.says({ type: 2, invocationId, item });
      await peer.nothing();
    }
    peer.says({ type: 2, invocationId, item: 4 });
    assert.deepEqual(await peer.next(), { type: 5, invocationId });
    assert.equal((await first).value, 1);
    assert.equal((await stream.next()).value, 2);
    assert.equal((await stream.next()).value, 3);
    await assert.rejects(stream.next(), failing("limit", /maxStreamItems/));
    assert.equal(hub.state, "Connected");
  });

  test("takes any number of items that come at once", async () => {
    const { hub, peer } = await connected({ maxStreamItems: 2 });
    const found = [];
    const reading = (async () => {
      for await (const item of hub.stream("Counter")) found.push(item);
    })();
    const { invocationId } = await peer.next();
    const items = [1, 2, 3, 4, 5].map((item) => ({ type: 2, invocationId, item }));
    peer.says(...items);
    peer.says(...items, { type: 3, invocationId });
    await within(reading);
    assert.deepEqual(found, [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]);
  });
});

describe("an argument that is an async iterable", () => {
  async function* items(...values) {
    for (const value of values) yield value;
  }

  /** A source whose items come when the test says so. */
  function source() {
    const it = { isClosed: false, asked: 0 };
    it[Symbol.asyncIterator] = () => ({
      next: () => {
        it.asked += 1;
        return new Promise((resolve) => (it.give = (value) => resolve({ done: false, value })));
      },
      return: async () => {
        it.isClosed = true;
        return { done: true };
      },
    });
    return it;
  }

  test("is sent item by item after its call, which has the other arguments", async () => {
    const { hub, peer } = await connected();
    const answer = hub.invoke("Upload", 1, items("a", undefined), items(), 2);
    const { streamIds, invocationId, ...call } = await peer.next();
    assert.deepEqual(call, { type: 1, target: "Upload", arguments: [1, 2] });
    assert.equal(new Set([...streamIds, invocationId]).size, 3);
    const rest = [];
    for (let count = 0; count < 4; count++) rest.push(await peer.next());
    const [one, two] = streamIds.map((id) => rest.filter((each) => each.invocationId === id));
    assert.deepEqual(one, [
      { type: 2, invocationId: streamIds[0], item: "a" },
      { type: 2, invocationId: streamIds[0], item: null },
      { type: 3, invocationId: streamIds[0] },
    ]);
    assert.deepEqual(two, [{ type: 3, invocationId: streamIds[1] }]);
    peer.says({ type: 3, invocationId, result: "done" });
    assert.equal(await within(answer), "done");
  });

  for (const how of ["send", "stream"]) {
    test(`may be one of ${how}()`, async () => {
      const { hub, peer } = await connected();
      const result = how === "send" ? hub.send("Up", items(7)) : hub.stream("Up", items(7)).next();
      const { streamIds } = await peer.next();
      assert.deepEqual(await peer.next(), { type: 2, invocationId: streamIds[0], item: 7 });
      assert.deepEqual(await peer.next(), { type: 3, invocationId: streamIds[0] });
      result.catch(() => {});
    });
  }

  for (const [what, thrown, text] of [
    ["its error", new Error("mistake"), "mistake"],
    ["what it throws", 5, "5"],
  ]) {
    test(`ends with ${what}`, async () => {
      const { hub, peer } = await connected();
      hub.send(
        "Up",
        (async function* () {
          throw thrown;
        })(),
      );
      const { streamIds } = await peer.next();
      assert.deepEqual(await peer.next(), { type: 3, invocationId: streamIds[0], error: text });
    });
  }

  test("ends with an error when an item does not fit into JSON, and is closed", async () => {
    const { hub, peer } = await connected();
    const it = source();
    hub.send("Up", it);
    await peer.next();
    it.give(1n);
    assert.match((await peer.next()).error, /BigInt/);
    assert.equal(it.isClosed, true);
  });

  test("is closed when its method has ended", async () => {
    const { hub, peer } = await connected();
    const it = source();
    const answer = hub.invoke("Up", it);
    const { invocationId } = await peer.next();
    it.give(1);
    assert.equal((await peer.next()).item, 1);
    await until(() => it.asked === 2);
    peer.says({ type: 3, invocationId, result: "enough" });
    assert.equal(await within(answer), "enough");
    assert.equal(it.isClosed, true);
    it.give(2);
    await peer.nothing();
  });

  test("that has ended is not closed when its method ends", async () => {
    const { hub, peer } = await connected();
    let isClosed = false;
    const next = async () => ({ done: true });
    const close = async () => (isClosed = true);
    const answer = hub.invoke("Up", { [Symbol.asyncIterator]: () => ({ next, return: close }) });
    const { invocationId } = await peer.next();
    assert.equal((await peer.next()).type, 3);
    peer.says({ type: 3, invocationId });
    await within(answer);
    assert.equal(isClosed, false);
  });

  test("is closed when the loop of its stream ends", async () => {
    const { hub, peer } = await connected();
    const it = source();
    const stream = hub.stream("Up", it);
    const first = stream.next();
    const { invocationId } = await peer.next();
    peer.says({ type: 2, invocationId, item: 1 });
    await within(first);
    await stream.return();
    assert.equal(it.isClosed, true);
    assert.deepEqual(await peer.next(), { type: 5, invocationId });
  });

  test("is closed when the connection is lost, and has nothing to do with the next one", async () => {
    const { hub, peer } = await connected();
    const it = source();
    hub.send("Up", it);
    await peer.next();
    peer.drop();
    const [again] = await Promise.all([server.accept(), event(hub, "reconnected")]);
    assert.equal(it.isClosed, true);
    it.give(1);
    await again.nothing();
  });

  test("counts among what is under way, until it has ended", async () => {
    const { hub, peer } = await connected({ maxInvocations: 1 });
    const it = source();
    await hub.send("Up", it);
    await assert.rejects(hub.send("Up"), failing("limit", /maxInvocations/));
    await peer.next();
    it.give(1n);
    await peer.next();
    await hub.send("Up");
  });

  test("that cannot be closed is reported", async () => {
    const { hub, peer } = await connected();
    const it = source();
    const iterator = it[Symbol.asyncIterator]();
    iterator.return = () => {
      throw new Error("stuck");
    };
    hub.invoke("Up", { [Symbol.asyncIterator]: () => iterator }).catch(() => {});
    await peer.next();
    await within(hub.stop());
    assert.deepEqual(reported.map(({ message }) => message), ["stuck"]);
  });
});

describe("a lost connection", () => {
  test("comes back, and the page is told each step", async () => {
    const { hub, peer } = await connected();
    const events = recorded(hub);
    peer.drop();
    const lost = await event(hub, "reconnecting");
    assert.deepEqual([lost.attempt, lost.code, lost.wasClean], [1, 1006, false]);
    assert.ok(lost.delay <= 1);
    assert.ok(failing("lost", /close code 1006/)(lost.error));
    const [, back] = await Promise.all([server.accept(), event(hub, "reconnected")]);
    assert.deepEqual(events.types, ["reconnecting", "reconnected"]);
    assert.equal(back.attempts, 1);
    assert.equal(back.connectionId, null);
    assert.ok(back.downtime >= 0);
    assert.equal(hub.state, "Connected");
  });

  for (const code of [1000, 1001, 1011, 1012, 4000]) {
    test(`comes back after ${code}`, async () => {
      const { hub, peer } = await connected();
      peer.socket.close(code, "so");
      const lost = await event(hub, "reconnecting");
      assert.deepEqual([lost.code, lost.reason, lost.wasClean], [code, "so", true]);
      await server.accept();
    });
  }

  for (const code of [1008, 3000, 4001]) {
    test(`is over after ${code}`, async () => {
      const { hub, peer } = await connected({ finalCodes: [4001] });
      const events = recorded(hub);
      const answer = hub.invoke("Add");
      peer.socket.close(code, "so");
      await assert.rejects(within(answer), failing("lost", /so/));
      assert.deepEqual(events.types, ["error", "close"]);
      assert.deepEqual([events[1].code, events[1].reason, events[1].wasClean], [code, "so", true]);
      assert.equal(events[1].error, events[0].error);
      assert.equal(hub.state, "Disconnected");
    });
  }

  test("is over after maxAttempts", async () => {
    const { hub, peer } = await connected({ maxAttempts: 2, minDelay: 20 });
    const events = recorded(hub);
    server.refused = 10;
    peer.drop();
    await event(hub, "close");
    assert.deepEqual(events.types, ["reconnecting", "reconnecting", "error", "close"]);
    assert.ok(failing("connect", /no connection/)(events[3].error));
    assert.equal(server.refused, 8);
  });

  test("that refuses the handshake counts as an attempt that has failed", async () => {
    const { hub, peer } = await connected();
    const events = recorded(hub);
    peer.drop();
    await server.accept({ error: "not yet" });
    await Promise.all([server.accept(), event(hub, "reconnected")]);
    assert.deepEqual(events.types, ["reconnecting", "reconnecting", "reconnected"]);
    assert.ok(failing("connect", /not yet/)(events[1].error));
  });

  test("is tried at once after reconnect()", async () => {
    const { hub, peer } = await connected({ minDelay: 60_000, maxDelay: 60_000 });
    hub.reconnect(); // which has no effect on a connection
    const random = Math.random;
    Math.random = () => 0.9;
    try {
      peer.drop();
      await event(hub, "reconnecting");
    } finally {
      Math.random = random;
    }
    hub.reconnect();
    await Promise.all([server.accept(), event(hub, "reconnected")]);
  });

  test("goes on trying when the URL cannot be had", async () => {
    let count = 0;
    const url = () => {
      count += 1;
      if (count === 2) throw new Error("away");
      return server.url;
    };
    const { hub, peer } = await connected({}, url);
    const events = recorded(hub);
    peer.drop();
    await Promise.all([server.accept(), event(hub, "reconnected")]);
    assert.deepEqual(events.types, ["reconnecting", "reconnecting", "reconnected"]);
    assert.equal(events[1].error.message, "away");
  });
});

test("reconnect() before start() does nothing", () => {
  made().reconnect();
});

describe("a Close message", () => {
  for (const [what, message, error] of [
    ["plain", {}, null],
    ["with an error", { error: "Too slow" }, /^Server returned an error on close: Too slow$/],
    ["that allows no reconnect", { allowReconnect: false, error: null }, null],
  ]) {
    test(`${what} is the end`, async () => {
      const { hub, peer } = await connected();
      const events = recorded(hub);
      const answer = hub.invoke("Add");
      await peer.next();
      peer.says({ type: 7, ...message });
      await assert.rejects(within(answer), failing("lost", error ? /Too slow/ : /stopped/));
      await within(peer.ended);
      await until(() => hub.state === "Disconnected");
      assert.deepEqual(events.types, error ? ["error", "close"] : ["close"]);
      const close = events.at(-1);
      assert.equal(close.wasClean, true);
      if (error) assert.ok(failing("close", error)(close.error));
      else assert.equal(close.error, undefined);
    });
  }

  test("that allows a reconnect is a loss", async () => {
    const { hub, peer } = await connected();
    peer.says({ type: 7, error: "Restart", allowReconnect: true }, { type: 99 });
    const lost = await event(hub, "reconnecting");
    assert.deepEqual([lost.code, lost.wasClean], [1005, true]);
    assert.ok(failing("close", /Restart/)(lost.error));
    await Promise.all([server.accept(), event(hub, "reconnected")]);
    await within(peer.ended);
  });

  test("that allows a reconnect needs no error", async () => {
    const { hub, peer } = await connected();
    peer.says({ type: 7, allowReconnect: true });
    assert.ok(failing("lost", /asks for it/)((await event(hub, "reconnecting")).error));
  });
});

describe("stop()", () => {
  test("sends a Close message and closes", async () => {
    const { hub, peer } = await connected();
    const events = recorded(hub);
    const stop = hub.stop();
    assert.equal(hub.state, "Disconnecting");
    assert.deepEqual(await peer.next(), { type: 7 });
    await within(Promise.all([stop, hub.stop()]));
    assert.equal(await within(peer.ended), 1005);
    assert.deepEqual(events.types, ["close"]);
    assert.equal(events[0].error, undefined);
    assert.equal(hub.state, "Disconnected");
    await hub.stop();
    assert.deepEqual(events.types, ["close"]);
  });

  test("ends what is under way at once, and drops what still comes", async () => {
    const { hub, peer } = await connected();
    const events = recorded(hub);
    const calls = [];
    const stops = [];
    hub.on("Go", () => {
      calls.push("called");
      stops.push(hub.stop());
    });
    const answer = hub.invoke("Add");
    await peer.next();
    peer.says({ type: 1, target: "Go" }, { type: 1, target: "Go" });
    peer.raw("no JSON");
    await assert.rejects(within(answer), failing("lost", /stopped/));
    await within(stops[0]);
    assert.deepEqual(calls, ["called"]);
    assert.deepEqual(events.types, ["close"]);
  });

  test("before the answer to the handshake makes start() reject", async () => {
    const hub = made();
    const events = recorded(hub);
    const start = hub.start();
    start.catch(() => {});
    const peer = await server.peer();
    await peer.any();
    await within(hub.stop());
    await assert.rejects(start, failing("connect", /stopped/));
    assert.deepEqual(events.types, []);
    await within(peer.ended);
  });

  test("before the WebSocket is open makes start() reject", async () => {
    for (const url of [server.url, () => new Promise(() => {})]) {
      const hub = made({}, url);
      const start = hub.start();
      start.catch(() => {});
      await new Promise((resolve) => setImmediate(resolve));
      await within(hub.stop());
      await assert.rejects(start, failing("connect", /stopped/));
    }
  });

  test("ends the attempts, also in a handler of the loss", async () => {
    let attempts = 0;
    const { hub, peer } = await connected({}, () => {
      attempts += 1;
      return server.url;
    });
    const events = recorded(hub);
    hub.addEventListener("reconnecting", () => {
      hub.stop();
      hub.reconnect();
    });
    peer.drop();
    await event(hub, "close");
    assert.deepEqual(events.types, ["reconnecting", "close"]);
    assert.equal(attempts, 1);
  });

  test("can be followed by another start, also in a handler of the end", async () => {
    const { hub } = await connected();
    let start;
    hub.addEventListener("close", () => (start = hub.start()), { once: true });
    await within(hub.stop());
    await Promise.all([server.accept(), within(start)]);
    assert.equal(hub.state, "Connected");
  });
});

describe("bad bytes of the server", () => {
  for (const [what, data, message] of [
    ["no JSON", "nonsense\x1e", /no JSON/],
    ["an empty message", "\x1e", /no JSON/],
    ["an incomplete message", '{"type":6}', /incomplete/],
    ["binary data", Buffer.from('{"type":6}\x1e'), /binary/],
    ["JSON that nests too deeply", `${"[".repeat(1e5)}\x1e`, /no JSON/],
    ["null", "null\x1e", /no object/],
    ["a list", "[6]\x1e", /no object/],
    ["no type", "{}\x1e", /without a type/],
    ["a type that is text", '{"type":"6"}\x1e', /without a type/],
    ["no target", '{"type":1,"arguments":[]}\x1e', /bad target/],
    ["an empty target", '{"type":1,"target":"","arguments":[]}\x1e', /bad target/],
    ["no arguments", '{"type":1,"target":"Go"}\x1e', /bad arguments/],
    ["a null as id", '{"type":1,"target":"Go","arguments":[],"invocationId":null}\x1e', /invocationId/],
    ["an item without a value", '{"type":2,"invocationId":"1"}\x1e', /bad item/],
    ["an item without an id", '{"type":2,"item":1}\x1e', /bad invocationId/],
    ["an answer without an id", '{"type":3}\x1e', /bad invocationId/],
    ["an answer and an error", '{"type":3,"invocationId":"1","result":1,"error":"2"}\x1e', /as well/],
    ["an error that is no text", '{"type":3,"invocationId":"1","error":{}}\x1e', /bad error/],
    ["a Close with an error that is no text", '{"type":7,"error":1}\x1e', /bad error/],
    ["an Ack without a number", '{"type":8}\x1e', /bad sequenceId/],
    ["a Sequence of zero", '{"type":9,"sequenceId":0}\x1e', /bad sequenceId/],
  ]) {
    test(`${what} is an error, and the end`, async () => {
      const { hub, peer } = await connected();
      const events = recorded(hub);
      const calls = [];
      hub.on("Before", () => calls.push("before"));
      const answer = hub.invoke("Add");
      await peer.next();
      peer.says({ type: 1, target: "Before" });
      peer.raw(data);
      await assert.rejects(within(answer), failing("lost", message));
      const said = await peer.next();
      assert.equal(said.type, 7);
      assert.match(said.error, message);
      await event(hub, "close");
      assert.deepEqual(events.types, ["error", "close"]);
      assert.ok(failing("protocol", message)(events[0].error));
      assert.equal(events[1].error, events[0].error);
      assert.deepEqual(calls, ["before"]);
    });
  }

  test("that newer servers may send are ignored", async () => {
    const { peer } = await connected();
    peer.raw("");
    peer.says({ type: 10, target: 5 }, { type: 0 }, { type: 1.5 }, { type: 6, more: true });
    peer.says({ type: 4, target: "Go", invocationId: "1" }, { type: 5, invocationId: "1" });
    peer.says({ type: 8, sequenceId: 5 }, { type: 9, sequenceId: 5 });
    await peer.nothing();
  });
});

describe("what a page must not", () => {
  for (const [url, wanted] of [
    ["ftp://example.com", /url must be/],
    ["/chat", /url must be/], // there is no page in Node.js
    [undefined, /url must be/],
    [5, /url must be/],
  ]) {
    test(`connect to ${url}`, () => {
      assert.throws(() => new HubConnection(url), { name: "TypeError", message: wanted });
    });
  }

  for (const options of [
    { minDelay: 0 },
    { maxDelay: 10, minDelay: 11 },
    { maxAttempts: -1 },
    { maxFirstAttempts: null },
    { connectTimeout: "1" },
    { finalCodes: 1000 },
    { accessTokenFactory: "token" },
    { stateful: 1 },
    { keepAliveInterval: 0 },
    { serverTimeout: Infinity },
    { maxInvocations: 0 },
    { maxQueue: -1 },
    { maxUnsent: 0.5 },
    { maxStreamItems: 0 },
    { transport: "WebSockets" },
  ]) {
    const [name] = Object.keys(options);
    test(`set ${JSON.stringify(options)}, and the error names ${name}`, () => {
      const wanted = { name: "TypeError", message: new RegExp(`HubConnection.*${name}`) };
      assert.throws(() => new HubConnection("ws://server", options), wanted);
    });
  }

  test("call what has no name, or handle calls with no function", async () => {
    const hub = new HubConnection("ws://server", undefined);
    const noName = { name: "TypeError", message: /name must be/ };
    const noHandler = { name: "TypeError", message: /handler must be/ };
    await assert.rejects(hub.invoke(), noName);
    await assert.rejects(hub.send(""), noName);
    assert.throws(() => hub.stream(5), noName);
    assert.throws(() => hub.on(Symbol("a"), () => {}), noName);
    assert.throws(() => hub.off(), noName);
    assert.throws(() => hub.on("Go"), noHandler);
    assert.throws(() => hub.off("Go", "no function"), noHandler);
  });
});

test("the states are Microsoft's", () => {
  for (const [name, value] of Object.entries(HubConnectionState)) assert.equal(name, value);
});

describe("a negotiation", () => {
  const offer = { ...OFFER, useStatefulReconnect: true };

  test("asks for a stateful reconnect, and connects to what it gets", async () => {
    server.negotiations = [offer];
    const fetches = [];
    const { fetch } = globalThis;
    globalThis.fetch = (...args) => fetches.push(args) && fetch(...args);
    try {
      const { hub, peer } = await connected({ stateful: true }, `${server.url}/?a=1`);
      assert.equal(hub.connectionId, "public");
      assert.equal(peer.url.href, "http://server/chat/?a=1&id=secret");
      assert.deepEqual(peer.handshake, { protocol: "json", version: 2 });
    } finally {
      globalThis.fetch = fetch;
    }
    const [{ method, url, headers }] = server.requests;
    assert.equal(method, "POST");
    assert.equal(url, "/chat/negotiate?a=1&negotiateVersion=1&useStatefulReconnect=true");
    assert.equal(headers["x-requested-with"], "XMLHttpRequest");
    assert.equal(headers["content-length"], "0");
    assert.equal(headers.authorization, undefined);
    assert.equal(fetches[0][1].credentials, "include");
  });

  test("with a server that has none ends in a connection of the ordinary kind", async () => {
    server.negotiations = [{ ...offer, negotiateVersion: 0, useStatefulReconnect: undefined }];
    const { hub, peer } = await connected({ stateful: true });
    assert.equal(peer.url.search, "?id=public");
    assert.equal(peer.handshake.version, 1);
    const answer = hub.invoke("Add");
    await peer.next();
    peer.drop();
    await assert.rejects(within(answer), failing("lost", /Add/));
    const [again] = await Promise.all([server.accept(), event(hub, "reconnected")]);
    assert.equal(again.handshake.version, 1);
    assert.equal(server.requests.length, 2);
  });

  test("has the token of the page in a header", async () => {
    server.negotiations = [offer];
    const { peer } = await connected({ stateful: true, accessTokenFactory: () => "page" });
    assert.equal(server.requests[0].headers.authorization, "Bearer page");
    assert.equal(peer.url.search, "?id=secret&access_token=page");
  });

  test("follows redirects, and uses the tokens that come with them", async () => {
    const other = server.url.replace("/chat", "/other?b=2");
    server.negotiations = [
      { url: other, accessToken: "theirs" },
      { url: `${server.url}?c=3` },
      offer,
    ];
    const { hub, peer } = await connected({ stateful: true, accessTokenFactory: () => "page" });
    assert.deepEqual(
      server.requests.map(({ url, headers }) => [url, headers.authorization]),
      [
        ["/chat/negotiate?negotiateVersion=1&useStatefulReconnect=true", "Bearer page"],
        ["/other/negotiate?b=2&negotiateVersion=1&useStatefulReconnect=true", "Bearer theirs"],
        ["/chat/negotiate?c=3&negotiateVersion=1&useStatefulReconnect=true", "Bearer theirs"],
      ],
    );
    assert.equal(peer.url.search, "?c=3&id=secret&access_token=theirs");
    peer.drop();
    const again = await server.peer();
    assert.equal(again.url.search, "?c=3&id=secret&access_token=theirs");
    assert.equal(hub.state, "Connected");
  });

  test("follows no more than 100", async () => {
    server.negotiations = [{ url: server.url }];
    const start = made({ stateful: true, connectTimeout: 60_000 }).start();
    await assert.rejects(within(start), failing("connect", /more than 100/));
    assert.equal(server.requests.length, 101);
  });

  for (const [what, answer, kind, message] of [
    ["an error", { error: "no" }, "connect", /negotiate: no/],
    ["a status that is none of success", { status: 401, text: "" }, "connect", /Status code 401/],
    ["no JSON", { text: "<html>" }, "protocol", /no JSON/],
    ["no object", { text: "null" }, "protocol", /no object/],
    ["no connection", { ...offer, connectionToken: 5 }, "protocol", /no connection/],
    ["no transport", { ...offer, availableTransports: null }, "connect", /WebSockets/],
    ["no WebSockets", { ...offer, availableTransports: [null, {}] }, "connect", /WebSockets/],
    ["a redirect to nowhere", { url: "/relative" }, "connect", /redirects to \/relative/],
    ["a redirect to what is no hub", { url: "ftp://a" }, "connect", /redirects to ftp/],
  ]) {
    test(`with ${what} is an attempt that has failed`, async () => {
      server.negotiations = [answer];
      const hub = made({ stateful: true });
      await assert.rejects(within(hub.start()), failing(kind, message));
      assert.equal(server.waiting, 0);
    });
  }

  test("ends with stop()", async () => {
    const { fetch } = globalThis;
    let signal;
    globalThis.fetch = (_, options) => {
      signal = options.signal;
      return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    };
    try {
      const hub = made({ stateful: true });
      const start = hub.start();
      start.catch(() => {});
      await until(() => signal);
      await within(hub.stop());
      assert.equal(signal.aborted, true);
      await assert.rejects(start, failing("connect", /stopped/));
    } finally {
      globalThis.fetch = fetch;
    }
  });

  // What survives the loss of a socket.

  async function stateful(options) {
    server.negotiations = [offer];
    const { hub, peer } = await connected({ stateful: true, ...options });
    return { hub, peer, events: recorded(hub) };
  }

  /** Lose the connection, and resume it where the client has this to say and the server that. */
  async function resumed(peer, sequenceId = 1) {
    peer.drop();
    const again = await server.peer();
    assert.equal(again.url.search, "?id=secret");
    const first = await again.any();
    assert.equal(first.type, 9);
    again.says({ type: 9, sequenceId });
    return { peer: again, first: first.sequenceId };
  }

  describe("that is stateful", () => {
    test("goes on with another socket, and the page does not notice", async () => {
      const { hub, peer, events } = await stateful();
      const answer = hub.invoke("Add", 1, 2);
      const { invocationId } = await peer.next();
      const { peer: again, first } = await resumed(peer);
      assert.equal(first, 1);
      assert.deepEqual(await again.any(), { type: 1, invocationId, target: "Add", arguments: [1, 2] });
      again.says({ type: 3, invocationId, result: 3 });
      assert.equal(await within(answer), 3);
      assert.deepEqual(events.types, []);
      assert.equal(hub.state, "Connected");
      assert.equal(hub.connectionId, "public");
      assert.equal(server.requests.length, 1);
    });

    test("repeats what is not acknowledged, and numbers it on", async () => {
      const { hub, peer } = await stateful();
      for (const name of ["A", "B", "C"]) await hub.send(name);
      for (const name of ["A", "B", "C"]) assert.equal((await peer.next()).target, name);
      peer.says({ type: 8, sequenceId: 2 });
      await peer.nothing(); // a message in both directions
      const once = await resumed(peer, 2);
      assert.equal(once.first, 3);
      assert.equal((await once.peer.any()).target, "C");
      assert.equal((await once.peer.any()).invocationId, "nothing?");
      once.peer.says({ type: 8, sequenceId: 4 });
      await hub.send("D");
      assert.equal((await once.peer.any()).target, "D");
      const twice = await resumed(once.peer, 2);
      assert.equal(twice.first, 5);
      assert.equal((await twice.peer.any()).target, "D");
    });

    test("keeps what is called meanwhile, in order", async () => {
      const { hub, peer } = await stateful();
      await hub.send("A");
      await peer.next();
      peer.drop();
      const again = await server.peer();
      await hub.send("B");
      again.says({ type: 9, sequenceId: 1 });
      const targets = [];
      const first = await again.any();
      assert.deepEqual(first, { type: 9, sequenceId: 1 });
      await hub.send("C");
      for (let count = 0; count < 3; count++) targets.push((await again.next()).target);
      assert.deepEqual(targets, ["A", "B", "C"]);
    });

    test("drops what the server repeats", async () => {
      const { hub, peer } = await stateful();
      const calls = [];
      hub.on("Go", (number) => calls.push(number));
      const go = (number) => ({ type: 1, target: "Go", arguments: [number] });
      peer.says(go(1), { type: 6 }, go(2), go(3));
      await until(() => calls.length === 3);
      let { peer: again } = await resumed(peer, 2);
      again.says(go(2), { type: 6 });
      // Once more before everything was repeated.
      ({ peer: again } = await resumed(again, 2));
      again.says(go(2), go(3), go(4));
      await until(() => calls.length > 3);
      assert.deepEqual(calls, [1, 2, 3, 4]);
    });

    test("ignores what comes before the Sequence, except the end", async () => {
      const { hub, peer, events } = await stateful();
      const calls = [];
      hub.on("Go", (number) => calls.push(number));
      const go = (number) => ({ type: 1, target: "Go", arguments: [number] });
      peer.drop();
      let again = await server.peer();
      again.says(go(1), { type: 6 }, { type: 8, sequenceId: 1 });
      again.says({ type: 9, sequenceId: 1 }, go(1));
      await until(() => calls.length > 0);
      assert.deepEqual(calls, [1]);
      again.drop();
      again = await server.peer();
      again.says({ type: 7 });
      await event(hub, "close");
      assert.deepEqual(events.types, ["close"]);
    });

    test("counts from where a Sequence says, whenever it comes", async () => {
      const { hub, peer } = await stateful();
      const calls = [];
      hub.on("Go", (number) => calls.push(number));
      const go = (number) => ({ type: 1, target: "Go", arguments: [number] });
      peer.says(go(1), { type: 9, sequenceId: 1 }, go(1), go(2));
      await until(() => calls.length > 1);
      assert.deepEqual(calls, [1, 2]);
    });

    test("begins anew when messages of the server are missing", async () => {
      const { hub, peer, events } = await stateful();
      const answer = hub.invoke("Add");
      await peer.next();
      const { peer: again } = await resumed(peer, 2);
      await assert.rejects(within(answer), failing("lost", /Sequence ID greater/));
      await within(again.ended);
      await Promise.all([server.accept(), event(hub, "reconnected")]);
      assert.ok(failing("protocol", /Sequence ID greater/)(events[0].error));
      assert.equal(events[1].connectionId, "public");
    });

    test("begins anew when it cannot be resumed", async () => {
      const { hub, peer, events } = await stateful();
      const answer = hub.invoke("Add");
      const queued = hub.invoke("Other");
      server.refused = 1;
      peer.drop();
      await assert.rejects(within(answer), failing("lost", /'Add'/));
      await assert.rejects(within(queued), failing("lost", /'Other'/));
      const [again] = await Promise.all([server.accept(), event(hub, "reconnected")]);
      assert.equal(again.handshake.version, 2);
      assert.equal(server.requests.length, 2);
      assert.deepEqual(events.types, ["reconnecting", "reconnected"]);
      const { peer: later, first } = await resumed(again); // which begins with 1 again
      assert.equal(first, 1);
      await later.nothing();
    });

    test("begins anew when there is no token to resume it", async () => {
      let isAway = false;
      const accessTokenFactory = () => {
        if (isAway) throw "away";
        return "token";
      };
      const { hub, peer, events } = await stateful({ accessTokenFactory });
      const answer = hub.invoke("Add");
      isAway = true;
      peer.drop();
      await assert.rejects(within(answer), failing("lost", /\. away$/));
      isAway = false;
      await Promise.all([server.accept(), event(hub, "reconnected")]);
      assert.equal(events[0].error, "away");
    });

    test("begins anew after a Close message that allows it, without an attempt to resume", async () => {
      const { hub, peer } = await stateful();
      peer.says({ type: 7, allowReconnect: true });
      const [again] = await Promise.all([server.accept(), event(hub, "reconnected")]);
      assert.equal(again.handshake.version, 2);
    });

    test("is over after a Close message", async () => {
      const { hub, peer, events } = await stateful();
      peer.says({ type: 7 });
      await event(hub, "close");
      assert.deepEqual(events.types, ["close"]);
      assert.equal(server.waiting, 0);
    });

    test("stops while it is resumed", async () => {
      for (const isOpen of [true, false]) {
        const { hub, peer, events } = await stateful();
        peer.drop();
        const again = await server.peer();
        if (isOpen) await again.any();
        await within(hub.stop());
        if (isOpen) assert.deepEqual(await again.next(), { type: 7 });
        await within(again.ended);
        assert.deepEqual(events.types, ["close"]);
      }
    });

    test("that never lasts is not resumed for ever", async () => {
      const { hub, peer } = await stateful({ minDelay: 1e9, maxDelay: 1e9 });
      let last = peer;
      for (let time = 0; time < 2; time++) {
        const lost = event(hub, "reconnecting");
        for (let count = 0; count < 16; count++) ({ peer: last } = await resumed(last));
        assert.equal(hub.state, "Connected");
        last.drop();
        await lost;
        assert.equal(hub.state, "Reconnecting");
        hub.reconnect();
        [last] = await Promise.all([server.accept(), event(hub, "reconnected")]);
      }
    });

    test("that lasts is resumed as often as it takes", async () => {
      const { hub, peer, events } = await stateful({ minDelay: 1e-9 });
      let last = peer;
      for (let count = 0; count < 40; count++) ({ peer: last } = await resumed(last));
      await last.nothing();
      assert.equal(hub.state, "Connected");
      assert.deepEqual(events.types, []);
    });

    test("keeps 100,000 bytes; then calls wait for an Ack, and too many are an error", async () => {
      const { hub, peer } = await stateful({ maxQueue: 2 });
      const half = "ä".repeat(25_000); // 50,000 bytes
      await within(hub.send("A", half));
      await within(hub.send("B", half));
      const sent = [];
      const waiting = [hub.send("C").then(() => sent.push("C")), hub.send("D").then(() => sent.push("D"))];
      await assert.rejects(hub.send("E"), failing("limit", /'E' was not sent.*maxQueue/));
      assert.equal((await peer.next()).target, "A");
      assert.equal((await peer.next()).target, "B");
      assert.deepEqual(sent, []);
      peer.says({ type: 8, sequenceId: 1 });
      await within(Promise.all(waiting));
      assert.deepEqual([(await peer.next()).target, (await peer.next()).target], ["C", "D"]);
    });

    test("that is lost for good rejects what waits", async () => {
      const { hub, peer } = await stateful();
      await hub.send("A", "x".repeat(100_000));
      const waiting = hub.send("B");
      const calls = [hub.invoke("C"), hub.stream("D").next()];
      server.refused = 1;
      peer.drop();
      await assert.rejects(within(waiting), failing("lost", /was not sent/));
      await assert.rejects(within(calls[0]), failing("lost", /'C' has no answer/));
      await assert.rejects(within(calls[1]), failing("lost", /'D' has no answer/));
    });

    test("acknowledges each 32 KB at once", async () => {
      const { peer } = await stateful();
      assert.deepEqual(await peer.any(), { type: 6 });
      const data = "x".repeat(16_400);
      peer.says({ type: 1, target: "A", arguments: [data] });
      peer.says({ type: 1, target: "B", arguments: [data] });
      assert.deepEqual(await peer.any(), { type: 8, sequenceId: 2 });
    });
  });
});
