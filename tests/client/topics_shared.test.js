// Tabs that share one connection, against a real server that says what each test says. There is no
// worker in Node.js: one of the tabs has the connection. Its locks are those of this file.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { HubServer, event, hubModule, until, within } from "./hub_server.js";

const { Topics } = await hubModule("topics.js");
const { Core } = await hubModule("topics_shared.js");

/** What a browser has for its tabs: each lock goes to one of them after the other. */
class Locks {
  #queues = new Map();

  request(name, given, wanted) {
    const [options, call] = wanted ? [given, wanted] : [{}, given];
    const before = this.#queues.get(name) ?? Promise.resolve();
    const result = before.then(() => {
      options.signal?.throwIfAborted();
      return call();
    });
    this.#queues.set(name, result.catch(() => {}));
    return result;
  }
}

let server;
let tabs;

beforeEach(async () => {
  Object.defineProperty(globalThis, "navigator", {
    value: { locks: new Locks() },
    configurable: true,
  });
  server = await HubServer.start();
  tabs = [];
});

afterEach(async () => {
  for (const tab of tabs) await tab.stop();
  await server.stop();
});

function tab(options) {
  const made = new Topics(server.url, { shared: true, minDelay: 1, maxDelay: 1, ...options });
  tabs.push(made);
  return made;
}

async function connected(count) {
  const made = Array.from({ length: count }, () => tab());
  const connections = Promise.all(made.map((each) => event(each, "connected")));
  const peer = await server.accept();
  await connections;
  return [peer, ...made];
}

function recorded(room) {
  const events = [];
  for (const type of ["subscribed", "message", "recovered", "gap", "snapshot", "presence", "error"]) {
    room.addEventListener(type, ({ data, position, code }) => {
      events.push([type, position ?? code ?? null, ...(data === undefined ? [] : [data])]);
    });
  }
  return events;
}

const OPTIONS = { since: null, token: null, snapshot: false, presence: false };

async function called(peer, target, ...args) {
  const call = await peer.next();
  assert.deepEqual([call.target, ...call.arguments], [target, ...args]);
  return call;
}

function completion({ invocationId }, result) {
  return { type: 3, invocationId, result };
}

function message(position) {
  return { type: 1, target: "Message", arguments: ["room", position, position] };
}

/** Subscribe a tab, as the server answers it. */
async function subscribe(peer, each, options = {}, expected = options, position = "1-1") {
  const room = each.subscribe("room", options);
  const events = recorded(room);
  const call = await called(peer, "Subscribe", "room", { ...OPTIONS, ...expected });
  const recovered = options.since !== undefined;
  peer.says(completion(call, { recovered, position }));
  await until(() => events.length > 0);
  return { room, events };
}

describe("tabs", () => {
  test("have one connection, and each hears of its own topics", async () => {
    const [peer, one, two] = await connected(2);
    const first = await subscribe(peer, one);
    const second = await subscribe(peer, two);
    two.subscribe("other");
    await called(peer, "Subscribe", "other", OPTIONS);
    peer.says(message("2-1"));
    await until(() => first.events.length + second.events.length === 4);
    assert.deepEqual(first.events, [
      ["subscribed", "1-1"],
      ["message", "2-1", "2-1"],
    ]);
    assert.deepEqual(second.events, first.events);
    assert.equal(server.waiting, 0);
  });

  test("that come later get what they have missed, and the others do not hear of it", async () => {
    const [peer, one, two] = await connected(2);
    const { events } = await subscribe(peer, one, {}, {}, "5-1");
    const late = recorded(two.subscribe("room", { since: "3-1" }));
    const call = await called(peer, "Subscribe", "room", { ...OPTIONS, since: "3-1" });
    peer.says(
      message("6-1"), // live, before the server begins to repeat
      ...["4-1", "5-1", "6-1", "7-1"].map(message),
      completion(call, { recovered: true, position: "7-1" }),
      message("8-1"),
    );
    await until(() => late.length === 6 && events.length === 4);
    const expected = ["4-1", "5-1", "6-1", "7-1", "8-1"].map((at) => ["message", at, at]);
    assert.deepEqual(late, [["recovered", "7-1"], ...expected]);
    assert.deepEqual(events, [["subscribed", "5-1"], ...expected.slice(2)]);
  });

  test("unsubscribe for themselves, and the last one for all", async () => {
    const [peer, one, two] = await connected(2);
    const first = await subscribe(peer, one);
    const second = await subscribe(peer, two);
    first.room.unsubscribe();
    const published = one.publish("room", 1);
    peer.says(completion(await called(peer, "Publish", "room", 1, null), null), message("2-1"));
    await published;
    await until(() => second.events.length === 2);
    assert.equal(first.events.length, 1);
    second.room.unsubscribe();
    await called(peer, "Unsubscribe", "room");
  });

  test("that are stopped leave their topics", async () => {
    const [peer, one, two] = await connected(2);
    await subscribe(peer, one);
    await subscribe(peer, two);
    await two.stop();
    await peer.nothing();
    two.reconnect();
    await event(two, "connected");
    await called(peer, "Subscribe", "room", { ...OPTIONS, since: "1-1" });
  });

  test("are refused for themselves", async () => {
    const [peer, one, two] = await connected(2);
    const { room, events } = await subscribe(peer, one);
    const refused = recorded(two.subscribe("room"));
    const { invocationId } = await peer.next();
    peer.says({ type: 3, invocationId, error: "HubException: forbidden: No." }, message("2-1"));
    await until(() => refused.length === 1 && events.length === 2);
    assert.deepEqual(refused, [["error", "forbidden"]]);
    // The other one keeps its subscription.
    peer.says(message("3-1"));
    await until(() => events.length === 3);
    assert.equal(refused.length, 1);
    room.unsubscribe();
    await called(peer, "Unsubscribe", "room");
  });

  test("that leave while there is no connection are forgotten", async () => {
    const [peer, one, two] = await connected(2);
    const { room } = await subscribe(peer, one);
    const other = await subscribe(peer, two);
    const lost = event(one, "reconnecting");
    peer.drop();
    await lost;
    room.unsubscribe();
    const next = await server.accept();
    const call = await called(next, "Subscribe", "room", { ...OPTIONS, since: "1-1" });
    next.says(completion(call, { recovered: true, position: "1-1" }));
    await until(() => other.events.length === 2);
    other.room.unsubscribe();
    await called(next, "Unsubscribe", "room");
  });

  test("hear of a loss, and come back together", async () => {
    const [peer, one, two] = await connected(2);
    await subscribe(peer, one);
    await subscribe(peer, two);
    const lost = Promise.all([one, two].map((each) => event(each, "reconnecting")));
    const back = Promise.all([one, two].map((each) => event(each, "reconnected")));
    const call = assert.rejects(within(one.publish("room", 1)), { code: "lost" });
    await called(peer, "Publish", "room", 1, null);
    peer.drop();
    await Promise.all([lost, call]);
    const next = await server.accept();
    assert.deepEqual((await back).map(({ attempts }) => attempts), [1, 1]);
    await called(next, "Subscribe", "room", { ...OPTIONS, since: "1-1" });
    await called(next, "Subscribe", "room", { ...OPTIONS, since: "1-1" });
  });

  test("go on when the one that has the connection stops", async () => {
    const [peer, one, two] = await connected(2);
    await subscribe(peer, one);
    const { events } = await subscribe(peer, two);
    const back = event(two, "reconnected");
    await one.stop();
    assert.equal(one.state, "Disconnected");
    const next = await server.accept();
    await back;
    const call = await called(next, "Subscribe", "room", { ...OPTIONS, since: "1-1" });
    next.says(message("2-1"), completion(call, { recovered: true, position: "2-1" }));
    await until(() => events.length === 3);
    assert.deepEqual(events.slice(1), [
      ["recovered", "2-1"],
      ["message", "2-1", "2-1"],
    ]);
  });

  test("hear of the end, and may try again", async () => {
    const [peer, one, two] = await connected(2);
    const ends = Promise.all([one, two].map((each) => event(each, "close")));
    peer.says({ type: 7, error: "No more" });
    assert.deepEqual((await ends).map(({ error }) => error.code), ["close", "close"]);
    await assert.rejects(within(one.publish("room", 1)), { code: "state" });
    two.reconnect();
    const connecting = event(two, "connected");
    await server.accept();
    await connecting;
  });

  test("hear that there is no server", async () => {
    server.refused = 1;
    const { error } = await event(tab({ maxFirstAttempts: 0 }), "close");
    assert.equal(error.code, "connect");
  });

  test("hurry the next attempt of all", async () => {
    const slow = { minDelay: 60_000, maxDelay: 60_000, maxAttempts: Infinity };
    const one = tab(slow);
    const connecting = event(one, "connected");
    const peer = await server.accept();
    await connecting;
    const lost = event(one, "reconnecting");
    peer.drop();
    assert.equal((await lost).attempt, 1);
    one.reconnect();
    await server.accept();
  });

  test("that are stopped before there is a connection hear so", async () => {
    const one = tab();
    const end = event(one, "close");
    await one.stop();
    assert.equal((await end).error.code, "connect");
  });

  test("say what is wrong with the arguments of a call", async () => {
    const [, one] = await connected(1);
    const circle = {};
    circle.circle = circle;
    await assert.rejects(within(one.publish("room", circle)), TypeError);
    await assert.rejects(within(one.publish("room", () => {})), { name: "DataCloneError" });
  });

  test("cannot share what only they can call", () => {
    const text = /with shared, the URL and the token must not come from functions/;
    assert.throws(() => new Topics(() => "/x", { shared: true }), text);
    assert.throws(() => tab({ accessTokenFactory: () => "" }), text);
    assert.throws(() => tab({ minDelay: -1 }), /minDelay must be/);
  });

  test("have connections of their own where the browser cannot do that", async () => {
    Object.defineProperty(globalThis, "navigator", { value: undefined, configurable: true });
    const made = [tab(), tab()];
    await Promise.all(made.map(() => server.accept()));
  });
});

describe("the place that has the connection", () => {
  test("opens another one for a tab that comes while the last one leaves", async () => {
    const name = JSON.stringify(["name", server.url, {}]);
    for (const each of ["one", "two"]) {
      navigator.locks.request(`${name} ${each}`, () => new Promise(() => {})); // They live.
    }
    const core = new Core(name);
    const said = [];
    core.hear({ kind: "hello", tab: "one" }, (each) => said.push(["one", each.kind]));
    await server.accept();
    await until(() => said.length === 1);
    core.hear({ kind: "bye", tab: "one" });
    core.hear({ kind: "bye", tab: "one" });
    core.hear({ kind: "hello", tab: "two" }, (each) => said.push(["two", each.kind]));
    core.hear({ kind: "bye", tab: "two" });
    core.hear({ kind: "hello", tab: "two" }, (each) => said.push(["two", each.kind]));
    await server.accept();
    await until(() => said.length === 2);
    assert.deepEqual(said, [
      ["one", "connected"],
      ["two", "connected"],
    ]);
    core.stop();
  });
});

describe("presence of tabs", () => {
  test("is that of the first that wants to be there", async () => {
    const [peer, one, two, three] = await connected(3);
    await subscribe(peer, one, { presence: "watch", token: "first" });
    const second = await subscribe(peer, two, { presence: { tab: 2 } });
    await subscribe(peer, three, {}, { presence: { tab: 2 } });
    second.room.unsubscribe();
    // Those that are left only watch.
    await called(peer, "Subscribe", "room", { token: "first", presence: "watch" });
  });
});
