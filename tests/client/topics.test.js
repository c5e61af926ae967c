// The client of topics, against a real server that says what each test says.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { HubServer, event, hubModule, until, within } from "./hub_server.js";

const { TopicError, Topics } = await hubModule("topics.js");

const reported = [];
globalThis.reportError = (error) => reported.push(error);

/** What a browser keeps for the pages of a tab. */
class Storage {
  #items = new Map();
  isBroken = false;

  getItem(key) {
    if (this.isBroken) throw new DOMException("blocked", "SecurityError");
    return this.#items.get(key) ?? null;
  }

  setItem(key, value) {
    if (this.isBroken) throw new DOMException("blocked", "SecurityError");
    this.#items.set(key, value);
  }

  removeItem(key) {
    this.#items.delete(key);
  }
}

let server;
let open;

beforeEach(async () => {
  server = await HubServer.start();
  open = [];
  reported.length = 0;
  globalThis.sessionStorage = new Storage();
});

afterEach(async () => {
  for (const topics of open) topics.stop();
  await server.stop();
  delete globalThis.sessionStorage;
  delete globalThis.document;
  assert.deepEqual(reported, []);
});

function made(options, url = server.url) {
  const topics = new Topics(url, { minDelay: 1, maxDelay: 1, ...options });
  open.push(topics);
  return topics;
}

async function connected(options) {
  const topics = made(options);
  const peer = await server.accept();
  await event(topics, "connected");
  return { topics, peer };
}

const FIELDS = {
  subscribed: ({ position }) => [position],
  message: ({ position, data }) => [position, data],
  recovered: ({ position, missed }) => [position, missed],
  gap: ({ position }) => [position],
  snapshot: ({ position, state }) => [position, state],
  presence: ({ whole, members }) => [whole, members.map(({ key }) => key).join()],
  error: ({ code, willRetry }) => [code, willRetry],
};

/** The events of a subscription, from now on, as arrays that are easy to compare. */
function recorded(room) {
  const events = [];
  for (const [type, fields] of Object.entries(FIELDS)) {
    room.addEventListener(type, (each) => events.push([type, ...fields(each)]));
  }
  return events;
}

function message(name, position, data) {
  return { type: 1, target: "Message", arguments: [name, position, data] };
}

function calls(target, ...args) {
  return { type: 1, target, arguments: args };
}

function completion({ invocationId }, result) {
  return { type: 3, invocationId, result };
}

function refusal({ invocationId, target }, text) {
  const error = `An unexpected error occurred invoking '${target}' on the server. ${text}`;
  return { type: 3, invocationId, error };
}

/** The next call of the client, whose method and arguments are these. */
async function called(peer, target, ...args) {
  const call = await peer.next();
  assert.deepEqual([call.target, ...call.arguments], [target, ...args]);
  return call;
}

const OPTIONS = { since: null, token: null, snapshot: false, presence: false };

/** A subscription that is active, and its events from then on. */
async function subscribed(position = "1-1", options = {}) {
  const { topics, peer } = await connected();
  const room = topics.subscribe("room/7", options);
  const call = await peer.next();
  const active = event(room, "subscribed");
  peer.says(completion(call, { recovered: false, position }));
  await active;
  return { topics, peer, room, events: recorded(room) };
}

describe("subscribe()", () => {
  test("waits for the connection, and says when the subscription begins", async () => {
    const topics = made();
    const room = topics.subscribe("room/7");
    const events = recorded(room);
    assert.equal(room.name, "room/7");
    assert.equal(room.position, null);
    const peer = await server.accept();
    const call = await called(peer, "Subscribe", "room/7", OPTIONS);
    const begun = event(room, "subscribed");
    peer.says(
      completion(call, { recovered: false, position: "3-1" }),
      message("room/7", "4-1", "new"),
      message("other", "1-1", "not for us"),
    );
    await begun;
    await until(() => events.length === 2);
    assert.deepEqual(events, [
      ["subscribed", "3-1"],
      ["message", "4-1", "new"],
    ]);
    assert.equal(room.position, "4-1");
  });

  test("takes the address from the page", async () => {
    globalThis.document = Object.assign(new EventTarget(), {
      baseURI: server.url,
      getElementById: (id) => id === "ws_support-topics" && { textContent: '{"path":"/topics"}' },
    });
    const topics = made({}, null);
    const peer = await server.accept();
    assert.equal(peer.url.pathname, "/topics");
    topics.stop();
  });

  test("needs an address", () => {
    assert.throws(() => new Topics(), /needs a URL: .*websocket_topics/);
    assert.throws(() => new Topics(server.url, { shared: 1 }), /shared must be true or false, not 1/);
    assert.throws(() => new Topics(server.url, { sharde: true }), /has no option sharde/);
  });

  for (const [what, name, options, text] of [
    ["name", "", {}, /name must be the name of a topic/],
    ["name that is none", 7, {}, /name must be the name of a topic, not 7/],
    ["option", "x", { sinse: 1 }, /has no option sinse/],
    ["position", "x", { since: "yesterday" }, /since must be a position, "stored" or null/],
    ["token", "x", { token: 1 }, /token must be text, a function/],
    ["snapshot", "x", { snapshot: 1 }, /snapshot must be true or false/],
    ["presence", "x", { presence: [] }, /presence must be true, false, "watch" or an object/],
  ]) {
    test(`throws for a wrong ${what}`, async () => {
      const { topics } = await connected();
      assert.throws(() => topics.subscribe(name, options), text);
    });
  }

  test("throws for a second subscription to the same topic", async () => {
    const { topics } = await subscribed();
    assert.throws(() => topics.subscribe("room/7"), /a subscription to 'room\/7' already/);
  });

  test("hands its options on", async () => {
    const { topics, peer } = await connected();
    const given = { since: "5-5", token: () => "t", snapshot: true, presence: { page: 1 } };
    topics.subscribe("room/7", given);
    await called(peer, "Subscribe", "room/7", { ...given, token: "t" });
  });

  test("passes messages without positions on as they come", async () => {
    const { peer, room, events } = await subscribed(null);
    peer.says(message("room/7", null, 1), message("room/7", null, 1));
    await event(room, "message");
    assert.deepEqual(events, [
      ["message", null, 1],
      ["message", null, 1],
    ]);
  });

  test("drops what is not newer", async () => {
    const { peer, events } = await subscribed("9-1");
    peer.says(...["9-1", "10-1", "10-1", "9-1", "11-1"].map((at) => message("room/7", at, at)));
    await until(() => events.length === 2);
    assert.deepEqual(events, [
      ["message", "10-1", "10-1"],
      ["message", "11-1", "11-1"],
    ]);
  });
});

describe("after a loss", () => {
  test("it goes on where it was, and says how much was missed", async () => {
    const { topics, peer, events } = await subscribed("1-1");
    peer.says(message("room/7", "2-1", "two"));
    await until(() => events.length === 1);
    const back = event(topics, "reconnected");
    peer.drop();
    const next = await server.accept();
    const call = await called(next, "Subscribe", "room/7", { ...OPTIONS, since: "2-1" });
    assert.ok((await back).attempts >= 1);
    next.says(
      message("room/7", "3-1", "three"),
      message("room/7", "4-1", "four"),
      completion(call, { recovered: true, position: "4-1" }),
      message("room/7", "5-1", "five"),
    );
    await until(() => events.length === 5);
    assert.deepEqual(events.slice(1), [
      ["recovered", "4-1", 3],
      ["message", "3-1", "three"],
      ["message", "4-1", "four"],
      ["message", "5-1", "five"],
    ]);
  });

  test("it begins again where it was, when that is lost before the answer", async () => {
    const { peer, events } = await subscribed("1-1");
    peer.drop();
    const second = await server.accept();
    await called(second, "Subscribe", "room/7", { ...OPTIONS, since: "1-1" });
    second.says(message("room/7", "2-1", "two"));
    await second.nothing();
    second.drop();
    const third = await server.accept();
    const call = await called(third, "Subscribe", "room/7", { ...OPTIONS, since: "1-1" });
    third.says(message("room/7", "2-1", "two"), completion(call, { recovered: true, position: "2-1" }));
    await until(() => events.length === 2);
    assert.deepEqual(events, [
      ["recovered", "2-1", 1],
      ["message", "2-1", "two"],
    ]);
  });

  test("it says so when messages were lost, also when offsets begin anew", async () => {
    const { peer, events } = await subscribed("100-1");
    peer.drop();
    const next = await server.accept();
    const call = await next.next();
    next.says(
      completion(call, { recovered: false, position: "1-2" }),
      message("room/7", "2-2", "two"),
    );
    await until(() => events.length === 2);
    assert.deepEqual(events, [
      ["gap", "1-2"],
      ["message", "2-2", "two"],
    ]);
  });

  test("a topic without history has always lost something", async () => {
    const { peer, events } = await subscribed(null);
    peer.drop();
    const next = await server.accept();
    next.says(completion(await next.next(), { recovered: false, position: null }));
    await until(() => events.length === 1);
    assert.deepEqual(events, [["gap", null]]);
  });

  test("messages that come twice and out of order are put in order", async () => {
    // With another subscription of the same connection: new ones come before those that were missed.
    const { peer, events } = await subscribed("1-1");
    peer.drop();
    const next = await server.accept();
    const call = await next.next();
    const sent = ["4-1", "2-1", "3-1", "4-1"].map((at) => message("room/7", at, at));
    next.says(...sent, completion(call, { recovered: true, position: "4-1" }));
    await until(() => events.length === 4);
    assert.deepEqual(events, [
      ["recovered", "4-1", 3],
      ["message", "2-1", "2-1"],
      ["message", "3-1", "3-1"],
      ["message", "4-1", "4-1"],
    ]);
  });

  test("the page hears of attempts, and may hurry them", async () => {
    const { topics, peer } = await connected({ minDelay: 60_000, maxDelay: 60_000 });
    const lost = event(topics, "reconnecting");
    peer.drop();
    const { attempt, delay } = await lost;
    assert.equal(attempt, 1);
    assert.equal(typeof delay, "number");
    assert.equal(topics.state, "Reconnecting");
    topics.reconnect();
    await server.accept();
  });
});

describe("a gap", () => {
  test("is told in its place", async () => {
    const { peer, events } = await subscribed("9-1");
    peer.says(
      message("room/7", "10-1", "ten"),
      calls("Gap", "room/7", "1-2"),
      message("room/7", "2-2", "two"),
    );
    await until(() => events.length === 3);
    assert.deepEqual(events, [
      ["message", "10-1", "ten"],
      ["gap", "1-2"],
      ["message", "2-2", "two"],
    ]);
  });

  test("right behind the answer is told in its place", async () => {
    const { topics, peer } = await connected();
    const room = topics.subscribe("room/7", { since: "8-1" });
    const events = recorded(room);
    const call = await peer.next();
    peer.says(
      message("room/7", "9-1", "nine"),
      completion(call, { recovered: true, position: "9-1" }),
      calls("Gap", "room/7", "1-2"),
      message("room/7", "2-2", "two"),
    );
    await until(() => events.length === 4);
    assert.deepEqual(events, [
      ["recovered", "9-1", 1],
      ["message", "9-1", "nine"],
      ["gap", "1-2"],
      ["message", "2-2", "two"],
    ]);
  });

  test("means a new snapshot, where the page wants one", async () => {
    const { peer, room, events } = await subscribed("9-1", { snapshot: true });
    peer.says(calls("Gap", "room/7", "1-2"), message("room/7", "2-2", "in the snapshot"));
    const call = await called(peer, "Subscribe", "room/7", { ...OPTIONS, snapshot: true });
    peer.says(
      calls("Snapshot", "room/7", "2-2", { all: 2 }),
      message("room/7", "3-2", "three"),
      completion(call, { recovered: false, position: "3-2" }),
    );
    await until(() => events.length === 2);
    assert.deepEqual(events, [
      ["snapshot", "2-2", { all: 2 }],
      ["message", "3-2", "three"],
    ]);
    assert.equal(room.position, "3-2");
  });
});

describe("a snapshot", () => {
  test("comes first, and then what it may not have", async () => {
    const { topics, peer } = await connected();
    const room = topics.subscribe("room/7", { snapshot: true });
    const events = recorded(room);
    const call = await called(peer, "Subscribe", "room/7", { ...OPTIONS, snapshot: true });
    peer.says(
      calls("Snapshot", "room/7", "5-1", "state"),
      message("room/7", "6-1", "six"),
      completion(call, { recovered: false, position: "6-1" }),
      calls("Snapshot", "room/7", "7-1", "of another page"),
    );
    await until(() => events.length === 2);
    assert.deepEqual(events, [
      ["snapshot", "5-1", "state"],
      ["message", "6-1", "six"],
    ]);
  });

  test("of a topic without history comes before the messages that have come before it", async () => {
    const { topics, peer } = await connected();
    const room = topics.subscribe("room/7", { snapshot: true });
    const events = recorded(room);
    const call = await peer.next();
    peer.says(
      message("room/7", null, "one"),
      calls("Snapshot", "room/7", null, "state"),
      completion(call, { recovered: false, position: null }),
    );
    await until(() => events.length === 2);
    assert.deepEqual(events, [
      ["snapshot", null, "state"],
      ["message", null, "one"],
    ]);
  });
});

describe("presence", () => {
  const member = (key, ...entries) => ({ key, user_id: null, name: key, entries });
  const difference = (fields) => ({ joined: [], left: [], changed: [], whole: false, ...fields });

  test("is told as differences, and as who is there now", async () => {
    const { peer, room, events } = await subscribed();
    peer.says(
      calls("Presence", "room/7", difference({ whole: true, joined: [member("a"), member("b")] })),
      calls("Presence", "room/7", difference({ left: [member("a")], joined: [member("c")] })),
      calls("Presence", "room/7", difference({ changed: [member("b", 1, 2)] })),
      calls("Presence", "room/7", difference({ whole: true, joined: [member("d")] })),
    );
    await until(() => events.length === 4);
    assert.deepEqual(events, [
      ["presence", true, "a,b"],
      ["presence", false, "b,c"],
      ["presence", false, "b,c"],
      ["presence", true, "d"],
    ]);
    assert.deepEqual(room.people, [member("d")]);
  });
});

describe("calls", () => {
  test("publish, read the history and ask who is there", async () => {
    const { topics, peer, room } = await subscribed();
    const answers = [
      [room.publish({ text: "hi" }), ["Publish", "room/7", { text: "hi" }, null]],
      [room.publish("hi", { echo: false }), ["Publish", "room/7", "hi", { echo: false }]],
      [topics.publish("other", 1), ["Publish", "other", 1, null]],
      [room.history(), ["History", "room/7", null, null]],
      [room.history({ since: "1-1", limit: 5 }), ["History", "room/7", "1-1", 5]],
      [room.members(), ["Members", "room/7"]],
    ];
    for (const [at, [answer, call]] of answers.entries()) {
      peer.says(completion(await called(peer, ...call), at));
      assert.equal(await within(answer), at);
    }
  });

  for (const [given, message] of [
    [2, /takes an object, such as \{ limit: 50 \}, not 2\./],
    [null, /takes an object/],
    ["1-1", /takes an object/],
    [{ limt: 5 }, /has no option limt/],
    [{ limit: 0 }, /limit must be a whole number above 0, or null, not 0/],
    [{ since: "first" }, /since must be a position or null, not first/],
  ]) {
    test(`a history of ${JSON.stringify(given)} is refused at once`, async () => {
      const { room } = await subscribed();
      assert.throws(() => room.history(given), { name: "TypeError", message });
    });
  }

  test("wait for the first connection", async () => {
    const topics = made();
    const published = topics.publish("room/7", 1);
    const peer = await server.accept();
    peer.says(completion(await called(peer, "Publish", "room/7", 1, null), "1-1"));
    assert.equal(await within(published), "1-1");
  });

  for (const [what, text, code, message] of [
    ["a refusal", "HubException: forbidden: There is no such topic for you.", "forbidden", /^There/],
    ["a limit", "HubException: limit: Too many\nmessages.", "limit", /^Too many\nmessages\.$/],
    ["an error of the project", "HubException: Not now", "server", /HubException: Not now$/],
    ["any other error", "", "server", /unexpected error/],
  ]) {
    test(`reject with a TopicError for ${what}`, async () => {
      const { peer, room } = await subscribed();
      const published = room.publish(1);
      peer.says(refusal(await peer.next(), text));
      await assert.rejects(within(published), (error) => {
        assert.ok(error instanceof TopicError);
        assert.equal(error.name, "TopicError");
        assert.equal(error.code, code);
        assert.match(error.message, message);
        assert.equal(error.cause.name, "HubError");
        return true;
      });
    });
  }

  test("reject when the connection is lost, and when there is none", async () => {
    const { topics, peer } = await connected({ minDelay: 60_000, maxDelay: 60_000 });
    const lost = topics.publish("room/7", 1);
    await peer.next();
    peer.drop();
    await assert.rejects(within(lost), { code: "lost" });
    await assert.rejects(within(topics.publish("room/7", 1)), { code: "state" });
  });

  test("reject when there are too many", async () => {
    const { topics } = await connected({ maxInvocations: 1 });
    topics.publish("room/7", 1).catch(() => {});
    await assert.rejects(within(topics.publish("room/7", 1)), { code: "busy" });
  });

  test("throw what is wrong with their arguments", async () => {
    const { room } = await subscribed();
    const circle = {};
    circle.circle = circle;
    await assert.rejects(within(room.publish(circle)), TypeError);
  });
});

describe("errors", () => {
  for (const code of ["forbidden", "invalid", "limit"]) {
    test(`${code} is the end of a subscription, and an event`, async () => {
      const { topics, peer } = await connected();
      const room = topics.subscribe("room/7");
      const events = recorded(room);
      peer.says(refusal(await peer.next(), `HubException: ${code}: No.`));
      await until(() => events.length === 1);
      assert.deepEqual(events, [["error", code, false]]);
      peer.says(message("room/7", "1-1", "late"));
      await peer.nothing();
      assert.equal(events.length, 1);
      // The page may ask again.
      topics.subscribe("room/7");
      await called(peer, "Subscribe", "room/7", OPTIONS);
    });
  }

  for (const [text, code] of [
    ["HubException: unavailable: The broker does not answer.", "unavailable"],
    ["", "server"],
  ]) {
    test(`the error ${code} is tried again`, async () => {
      const { topics, peer } = await connected();
      const room = topics.subscribe("room/7");
      const events = recorded(room);
      peer.says(refusal(await peer.next(), text));
      peer.says(refusal(await peer.next(), text));
      peer.says(completion(await peer.next(), { recovered: false, position: "1-1" }));
      await until(() => events.length === 3);
      assert.deepEqual(events, [
        ["error", code, true],
        ["error", code, true],
        ["subscribed", "1-1"],
      ]);
    });
  }

  test("what a function for the token throws is told, and it is asked again", async () => {
    const { topics, peer } = await connected();
    const answers = [() => Promise.reject(new DOMException("gone")), () => undefined];
    const room = topics.subscribe("room/7", { token: () => answers.shift()() });
    const events = recorded(room);
    await called(peer, "Subscribe", "room/7", OPTIONS);
    assert.deepEqual(events, [["error", "page", true]]);
  });

  test("no attempt is made after the loss that has come before it", async () => {
    const { topics, peer } = await connected();
    let give;
    topics.subscribe("room/7", { token: () => new Promise((resolve) => (give ??= resolve)) });
    await until(() => give);
    const give_first = give;
    give = undefined;
    peer.drop();
    const next = await server.accept();
    await until(() => give);
    give_first("old");
    give("new");
    await called(next, "Subscribe", "room/7", { ...OPTIONS, token: "new" });
    await next.nothing();
  });

  test("a server that is not there is the end, until the page tries again", async () => {
    server.refused = 2;
    const topics = made({ maxFirstAttempts: 1 });
    const room = topics.subscribe("room/7");
    const events = recorded(room);
    const { error } = await event(topics, "close");
    assert.equal(error.code, "connect");
    assert.deepEqual(events, [["error", "connect", false]]);
    topics.reconnect();
    const peer = await server.accept();
    await called(peer, "Subscribe", "room/7", OPTIONS);
  });

  test("what the server closes for good is the end, until the page tries again", async () => {
    const { topics, peer, events } = await subscribed("4-1");
    const end = event(topics, "close");
    peer.says({ type: 7, error: "No more" });
    assert.equal((await end).error.code, "close");
    assert.deepEqual(events, [["error", "close", false]]);
    topics.reconnect();
    await called(await server.accept(), "Subscribe", "room/7", { ...OPTIONS, since: "4-1" });
  });

  test("what the page stops is no error", async () => {
    const { topics, events } = await subscribed();
    const end = event(topics, "close");
    await within(topics.stop());
    assert.equal((await end).error, undefined);
    assert.deepEqual(events, []);
    assert.equal(topics.state, "Disconnected");
  });
});

describe("unsubscribe()", () => {
  test("is told to the server, and nothing comes after it", async () => {
    const { peer, room, events } = await subscribed();
    room.unsubscribe();
    room.unsubscribe();
    const call = await called(peer, "Unsubscribe", "room/7");
    peer.says(message("room/7", "2-1", "late"), completion(call, null));
    await peer.nothing();
    assert.deepEqual(events, []);
  });

  test("before the answer ends what has not begun", async () => {
    const { topics, peer } = await connected();
    const room = topics.subscribe("room/7");
    const events = recorded(room);
    const call = await peer.next();
    room.unsubscribe();
    await called(peer, "Unsubscribe", "room/7");
    peer.says(completion(call, { recovered: false, position: "1-1" }), message("room/7", "2-1", 2));
    await peer.nothing();
    assert.deepEqual(events, []);
  });

  test("within an event ends the messages behind it", async () => {
    const { topics, peer } = await connected();
    const room = topics.subscribe("room/7", { since: "1-1" });
    const events = recorded(room);
    room.addEventListener("message", () => room.unsubscribe());
    const call = await peer.next();
    const sent = ["2-1", "3-1"].map((at) => message("room/7", at, at));
    peer.says(...sent, completion(call, { recovered: true, position: "3-1" }));
    await called(peer, "Unsubscribe", "room/7");
    assert.deepEqual(events, [
      ["recovered", "3-1", 2],
      ["message", "2-1", "2-1"],
    ]);
  });

  test("is confirmed before the next subscription to the topic begins", async () => {
    const { topics, peer, room } = await subscribed("9-1");
    room.unsubscribe();
    const again = topics.subscribe("room/7", { since: "2-1" });
    const events = recorded(again);
    const left = await called(peer, "Unsubscribe", "room/7");
    await peer.nothing();
    peer.says(message("room/7", "10-1", "for the first"), completion(left, null));
    const call = await called(peer, "Subscribe", "room/7", { ...OPTIONS, since: "2-1" });
    peer.says(message("room/7", "3-1", "3"), completion(call, { recovered: true, position: "3-1" }));
    await until(() => events.length === 2);
    assert.deepEqual(events[1], ["message", "3-1", "3"]);
  });

  test("of what waits for that leaves nothing", async () => {
    const { topics, peer, room } = await subscribed();
    room.unsubscribe();
    const left = await called(peer, "Unsubscribe", "room/7");
    topics.subscribe("room/7").unsubscribe();
    await called(peer, "Unsubscribe", "room/7");
    peer.says(completion(left, null));
    await peer.nothing();
  });

  test("without a connection needs none", async () => {
    const topics = made();
    topics.subscribe("room/7").unsubscribe();
    const peer = await server.accept();
    await event(topics, "connected");
    await peer.nothing();
  });

  test("is forgotten with the connection", async () => {
    const { topics, peer, room } = await subscribed();
    room.unsubscribe();
    await called(peer, "Unsubscribe", "room/7");
    const again = topics.subscribe("room/7");
    peer.drop();
    const next = await server.accept();
    await called(next, "Subscribe", "room/7", OPTIONS);
    await next.nothing();
    again.unsubscribe();
  });
});

describe('since: "stored"', () => {
  test("goes on where the page before was, once it has been somewhere", async () => {
    const { peer, room, events } = await subscribed("1-1", { since: "stored" });
    peer.says(message("room/7", "2-1", "two"));
    await until(() => events.length === 1);
    const { topics: reloaded, peer: next } = await connected();
    reloaded.subscribe("room/7", { since: "stored" });
    await called(next, "Subscribe", "room/7", { ...OPTIONS, since: "2-1" });
    room.unsubscribe();
    const { topics, peer: last } = await connected();
    topics.subscribe("room/7", { since: "stored" });
    await called(last, "Subscribe", "room/7", OPTIONS);
  });

  test("stores nothing where the page has not asked for it", async () => {
    await subscribed("1-1");
    const { topics, peer } = await connected();
    topics.subscribe("room/7", { since: "stored" });
    await called(peer, "Subscribe", "room/7", OPTIONS);
  });

  test("does without a storage, and with one that holds something else", async () => {
    sessionStorage.setItem(`ws_support-topics:${server.url}:room/8`, "something else");
    const { topics, peer } = await connected();
    topics.subscribe("room/8", { since: "stored" });
    await called(peer, "Subscribe", "room/8", OPTIONS);
    sessionStorage.isBroken = true;
    await subscribed("1-1", { since: "stored" });
  });
});
