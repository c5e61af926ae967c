// The browser client, moment by moment.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { runInNewContext } from "node:vm";

import { FakeSocket, recorded, settled, setUp } from "./fakes.js";

let clock;
let page;
let ReliableWebSocket;

beforeEach(async () => {
  ({ clock, page, ReliableWebSocket } = await setUp());
});

function open(options, url = "/ws") {
  const socket = new ReliableWebSocket(url, [], options);
  FakeSocket.last.opens();
  return socket;
}

/** Let the connection be lost, and the next attempt begin. */
function loseAndRetry(code) {
  FakeSocket.last.ends(code);
  const before = FakeSocket.all.length;
  while (FakeSocket.all.length === before) {
    assert.notEqual(clock.timers, 0, "there is no other attempt");
    clock.advance(clock.next);
  }
}

describe("in place of WebSocket", () => {
  for (const [url, absolute] of [
    ["/ws", "wss://example.com/ws"],
    ["ws", "wss://example.com/app/ws"],
    ["?room=1", "wss://example.com/app/page?room=1"],
    ["//other.com/ws", "wss://other.com/ws"],
    ["http://other.com/ws", "ws://other.com/ws"],
    ["ws://other.com/ws", "ws://other.com/ws"],
    [new URL("https://other.com/ws"), "wss://other.com/ws"],
  ]) {
    test(`${url} is ${absolute}`, () => {
      const socket = new ReliableWebSocket(url);
      assert.equal(FakeSocket.last.url, absolute);
      assert.equal(socket.url, absolute);
    });
  }

  test("sub-protocols are offered, and the one that was agreed on is told", () => {
    const socket = new ReliableWebSocket("/ws", ["v2", "v1"]);
    assert.deepEqual(FakeSocket.last.protocols, ["v2", "v1"]);
    assert.equal(socket.protocol, "");
    FakeSocket.last.opens("v1");
    assert.equal(socket.protocol, "v1");
  });

  test("what WebSocket throws is thrown, and nothing is left", () => {
    assert.throws(() => new ReliableWebSocket("ftp://example.com"), { name: "SyntaxError" });
    assert.throws(() => new ReliableWebSocket("http://a:port"), { name: "SyntaxError" });
    assert.equal(clock.timers, 0);
    assert.equal(page.listeners, 0);
  });

  test("the states have the same numbers and names", () => {
    const socket = new ReliableWebSocket("/ws");
    assert.deepEqual(
      ["CONNECTING", "OPEN", "CLOSING", "CLOSED"].map((name) => [
        ReliableWebSocket[name],
        socket[name],
      ]),
      [0, 1, 2, 3].map((value) => [value, value]),
    );
  });

  test("handlers are called with their socket, replaced, and removed", () => {
    const socket = new ReliableWebSocket("/ws");
    const calls = [];
    assert.equal(socket.onmessage, null);
    socket.onmessage = function ({ data }) {
      calls.push([this === socket, data]);
    };
    FakeSocket.last.opens();
    FakeSocket.last.says("one");
    socket.onmessage = ({ data }) => calls.push(data);
    FakeSocket.last.says("two");
    socket.onmessage = "no function";
    assert.equal(socket.onmessage, null);
    FakeSocket.last.says("three");
    assert.deepEqual(calls, [[true, "one"], "two"]);
  });

  test("the type of binary messages is passed on, also to later connections", () => {
    const socket = new ReliableWebSocket("/ws");
    assert.equal(socket.binaryType, "blob");
    socket.binaryType = "arraybuffer";
    socket.binaryType = "nonsense";
    assert.equal(FakeSocket.last.binaryType, "arraybuffer");
    loseAndRetry();
    assert.equal(FakeSocket.last.binaryType, "arraybuffer");
    assert.equal(socket.binaryType, "arraybuffer");
  });

  test("a close of the page's goes to the server, and ends in one event", () => {
    const socket = open();
    const events = recorded(socket);
    socket.close(4001, "done");
    socket.close(4002, "again");
    assert.equal(socket.readyState, 2);
    assert.deepEqual(FakeSocket.last.closedWith, [4001, "done"]);
    FakeSocket.last.ends(4001, "done");
    const [{ type, code, reason, wasClean }, ...others] = events;
    assert.deepEqual([type, code, reason, wasClean], ["close", 4001, "done", true]);
    assert.deepEqual(others, []);
    assert.equal(socket.readyState, 3);
  });

  test("a handshake that failed has failed also where no close event comes, as in Node.js 20", () => {
    const socket = new ReliableWebSocket("/ws");
    const events = recorded(socket);
    FakeSocket.last.dispatchEvent(new Event("error"));
    assert.deepEqual(events.types, ["reconnecting"]);
    assert.equal(events[0].code, 1006);
    while (FakeSocket.all.length === 1) clock.advance(clock.next);
    socket.close();
    FakeSocket.last.readyState = 0;
    FakeSocket.last.dispatchEvent(new Event("error"));
    assert.deepEqual(events.types, ["reconnecting", "error", "close"]);
  });

  test("an error counts once: where a close event comes, it says what happened", () => {
    const events = recorded(new ReliableWebSocket("/ws"));
    FakeSocket.last.readyState = 3;
    FakeSocket.last.dispatchEvent(new Event("error"));
    assert.deepEqual(events.types, []);
    FakeSocket.last.ends();
    assert.deepEqual(events.types, ["reconnecting"]);
  });

  test("the last event is a CloseEvent where there is one", () => {
    class CloseEvent extends Event {
      constructor(type, fields) {
        super(type);
        Object.assign(this, fields);
      }
    }
    for (const each of [CloseEvent, undefined]) {
      globalThis.CloseEvent = each;
      const events = recorded(open());
      FakeSocket.last.ends(1008, "no");
      const [{ type, code, reason, wasClean }] = events;
      assert.deepEqual([type, code, reason, wasClean], ["close", 1008, "no", true]);
      assert.equal(events[0].constructor, each ?? Event);
    }
  });

  for (const [code, reason, name] of [
    [1001, "", "InvalidAccessError"],
    [999, "", "InvalidAccessError"],
    [5000, "", "InvalidAccessError"],
    [1000, "ä".repeat(62), "SyntaxError"],
  ]) {
    test(`close(${code}, ${reason.length} characters) throws ${name}, open or not`, () => {
      const socket = open();
      assert.throws(() => socket.close(code, reason), { name });
      FakeSocket.last.ends();
      assert.throws(() => socket.close(code, reason), { name });
      assert.equal(socket.readyState, 0);
    });
  }

  test("a server that never answers a close is waited for for 10 s", () => {
    const socket = open();
    const events = recorded(socket);
    socket.close(4001, "done");
    clock.advance(9_999);
    assert.deepEqual(events.types, []);
    clock.advance(1);
    assert.deepEqual(events.types, ["error", "close"]);
    const { code, reason, wasClean } = events[1];
    assert.deepEqual([code, reason, wasClean], [1006, "Not closed within 10000 ms", false]);
    FakeSocket.last.ends(4001);
    assert.deepEqual(events.types, ["error", "close"]);
    assert.equal(socket.readyState, 3);
    assert.equal(clock.timers, 0);
    assert.equal(page.listeners, 0);
  });

  test("a handshake that does not end when it is closed is waited for for 10 s", () => {
    const socket = new ReliableWebSocket("/ws");
    const events = recorded(socket);
    clock.advance(9_000);
    socket.close();
    clock.advance(9_999);
    assert.deepEqual(events.types, []);
    clock.advance(1);
    assert.deepEqual(events.types, ["error", "close"]);
  });

  test("what is sent after the close is dropped", () => {
    const socket = open();
    const [native] = FakeSocket.all;
    socket.close();
    socket.send("late");
    native.ends(1000);
    socket.send("later");
    assert.deepEqual(native.sent, []);
    assert.equal(socket.bufferedAmount, 0);
  });
});

describe("reconnecting", () => {
  test("a lost connection comes back, and the page is told each step", () => {
    const socket = open();
    const events = recorded(socket);
    FakeSocket.last.ends(1012, "restart");
    assert.equal(socket.readyState, 0);
    const [lost] = events;
    assert.deepEqual(
      [lost.type, lost.attempt, lost.code, lost.reason, lost.wasClean],
      ["reconnecting", 1, 1012, "restart", true],
    );
    clock.advance(lost.delay);
    assert.equal(FakeSocket.all.length, 2);
    FakeSocket.last.opens();
    assert.deepEqual(events.types, ["reconnecting", "open", "reconnected"]);
    assert.equal(events[2].attempts, 1);
    assert.ok(Math.abs(events[2].downtime - lost.delay) < 1);
  });

  test("each attempt may wait twice as long as the one before, up to the limit", () => {
    const socket = open({ minDelay: 100, maxDelay: 1000 });
    const random = Math.random;
    Math.random = () => 0.999;
    try {
      const delays = [];
      socket.onreconnecting = ({ delay }) => delays.push(Math.round(delay));
      for (let attempt = 0; attempt < 6; attempt++) loseAndRetry();
      assert.deepEqual(delays, [100, 200, 400, 799, 999, 999]);
    } finally {
      Math.random = random;
    }
  });

  test("a thousand clients that are lost at once come back all over the window", () => {
    const minDelay = 1000;
    const back = [];
    const restartedAt = 5000;
    for (let client = 0; client < 1000; client++) {
      clock.now = 0;
      const socket = open({ minDelay });
      let window = minDelay;
      socket.onreconnecting = ({ attempt }) => {
        window = minDelay * 2 ** (attempt - 1);
      };
      FakeSocket.last.ends();
      while (socket.readyState !== 1) {
        clock.advance(clock.next);
        if (clock.now >= restartedAt) FakeSocket.last.opens();
        else FakeSocket.last.ends();
      }
      back.push({ at: clock.now, window });
      socket.close();
      FakeSocket.last.ends(1000);
    }
    const times = back.map(({ at }) => at).sort((one, other) => one - other);
    // Of the attempt on which most of them come back.
    const windows = back.map(({ window }) => window).sort((one, other) => one - other);
    assert.ok(times.at(-1) - times[0] >= windows[500], `${times.at(-1) - times[0]} ms`);
    // Not in a heap either, and a few much later.
    for (const start of times) {
      const heap = times.filter((time) => time >= start && time < start + 1000).length;
      assert.ok(heap < 334, `${heap} within a second`);
    }
  });

  test("the first attempts of a thousand clients fill their window evenly", () => {
    const delays = [];
    for (let client = 0; client < 1000; client++) {
      const socket = open({ minDelay: 1000 });
      socket.onreconnecting = ({ delay }) => delays.push(delay);
      FakeSocket.last.ends();
      socket.close();
    }
    for (let start = 0; start < 1000; start += 100) {
      const count = delays.filter((delay) => delay >= start && delay < start + 100).length;
      assert.ok(count > 50 && count < 150, `${count} from ${start} ms`);
    }
  });

  for (const code of [1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003]) {
    test(`${code} is the end`, () => {
      const socket = open();
      const events = recorded(socket);
      FakeSocket.last.ends(code, "no");
      assert.deepEqual(events.types, ["close"]);
      assert.deepEqual([events[0].code, events[0].reason], [code, "no"]);
      assert.equal(socket.readyState, 3);
      assert.equal(clock.timers, 0);
      assert.equal(page.listeners, 0);
    });
  }

  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 1013, 3008, 4000]) {
    test(`${code} is not`, () => {
      const socket = open();
      loseAndRetry(code);
      assert.equal(FakeSocket.all.length, 2);
      assert.equal(socket.readyState, 0);
    });
  }

  test("codes of one's own are the end as well", () => {
    const socket = open({ finalCodes: [4000] });
    FakeSocket.last.ends(4000);
    assert.equal(socket.readyState, 3);
  });

  test("attempts end after maxAttempts, with an error and a close", () => {
    const socket = open({ maxAttempts: 2 });
    const events = recorded(socket);
    loseAndRetry();
    loseAndRetry();
    FakeSocket.last.ends();
    assert.deepEqual(events.types, ["reconnecting", "reconnecting", "error", "close"]);
    assert.equal(clock.timers, 0);
  });

  test("a connection that was never open is tried five more times", () => {
    const socket = new ReliableWebSocket("/ws");
    for (let attempt = 0; attempt < 5; attempt++) loseAndRetry();
    FakeSocket.last.ends();
    assert.equal(socket.readyState, 3);
    assert.equal(FakeSocket.all.length, 6);
  });

  test("one that was open once is tried for ever", () => {
    const socket = open();
    for (let attempt = 0; attempt < 100; attempt++) loseAndRetry();
    assert.equal(socket.readyState, 0);
  });

  test("a server that accepts and closes at once is asked more and more seldom", () => {
    const socket = open({ maxAttempts: 3 });
    for (let attempt = 0; attempt < 3; attempt++) {
      loseAndRetry(1013);
      FakeSocket.last.opens();
    }
    FakeSocket.last.ends(1013);
    assert.equal(socket.readyState, 3);
  });

  test("a connection that has lasted starts the count anew", () => {
    const socket = open({ maxAttempts: 1 });
    const attempts = [];
    socket.onreconnecting = ({ attempt }) => attempts.push(attempt);
    for (let time = 0; time < 5; time++) {
      clock.advance(60_000);
      loseAndRetry();
      FakeSocket.last.opens();
    }
    assert.deepEqual(attempts, [1, 1, 1, 1, 1]);
  });

  test("an attempt that hangs is given up, and another one follows", () => {
    const socket = new ReliableWebSocket("/ws", [], { connectTimeout: 3000 });
    const events = recorded(socket);
    clock.advance(3000);
    assert.equal(events[0].reason, "Not open within 3000 ms");
    assert.equal(FakeSocket.last.readyState, 2);
    clock.advance(events[0].delay);
    assert.equal(FakeSocket.all.length, 2);
    FakeSocket.all[0].opens(); // too late
    assert.deepEqual(events.types, ["reconnecting"]);
  });

  for (const [what, wake] of [
    ["the browser comes online", () => page.dispatchEvent(new Event("online"))],
    ["the tab comes into sight", () => page.dispatchEvent(new Event("visibilitychange"))],
  ]) {
    test(`when ${what}, the next attempt is made at once`, () => {
      open();
      FakeSocket.last.ends();
      wake();
      assert.equal(FakeSocket.all.length, 2);
      wake();
      assert.equal(FakeSocket.all.length, 2);
    });
  }

  test("a page that is back from a sleep learns that its connection is lost, and does not wait", () => {
    const socket = open();
    const events = recorded(socket);
    page.dispatchEvent(new Event("visibilitychange"));
    clock.advance(10);
    FakeSocket.last.ends();
    assert.equal(events[0].delay, 0);
    clock.advance(0);
    FakeSocket.last.opens();
    // A server that accepts and closes at once is not asked without end.
    FakeSocket.last.ends();
    assert.ok(events.at(-1).delay > 0);
  });

  test("a connection that is lost long after the page was shown is waited for", () => {
    const socket = open();
    const events = recorded(socket);
    page.dispatchEvent(new Event("visibilitychange"));
    clock.advance(1000);
    FakeSocket.last.ends();
    assert.ok(events[0].delay > 0);
  });

  test("a tab that goes out of sight changes nothing, and comes online like any other", () => {
    open();
    FakeSocket.last.ends();
    page.visibilityState = "hidden";
    page.dispatchEvent(new Event("visibilitychange"));
    assert.equal(FakeSocket.all.length, 1);
    page.dispatchEvent(new Event("online"));
    assert.equal(FakeSocket.all.length, 2);
  });

  test("reconnect() does not wait any longer", () => {
    const socket = open();
    FakeSocket.last.ends();
    socket.reconnect();
    assert.equal(FakeSocket.all.length, 2);
    FakeSocket.last.opens();
    socket.reconnect();
    assert.equal(FakeSocket.all.length, 2);
  });

  test("close() while it waits is the end, in an event of its own", async () => {
    const socket = open();
    FakeSocket.last.ends();
    const events = recorded(socket);
    socket.close(4001, "done");
    assert.deepEqual(events.types, []);
    assert.equal(socket.readyState, 2);
    await settled();
    assert.deepEqual(events.types, ["error", "close"]);
    assert.deepEqual([events[1].code, events[1].reason], [4001, "done"]);
    assert.equal(socket.readyState, 3);
    assert.equal(clock.timers, 0);
    assert.equal(page.listeners, 0);
    assert.equal(FakeSocket.all.length, 1);
  });

  test("close() in a handler of the loss is the end", async () => {
    const socket = open();
    socket.onreconnecting = () => socket.close();
    FakeSocket.last.ends();
    await settled();
    assert.equal(socket.readyState, 3);
    assert.equal(clock.timers, 0);
  });

  test("close() when it is back ends it before it is told", () => {
    const socket = open();
    const events = recorded(socket);
    loseAndRetry();
    socket.onopen = () => socket.close();
    FakeSocket.last.opens();
    FakeSocket.last.ends(1000);
    assert.deepEqual(events.types, ["reconnecting", "open", "close"]);
  });

  test("close() during an attempt is the end", () => {
    const socket = new ReliableWebSocket("/ws");
    const events = recorded(socket);
    socket.close();
    FakeSocket.last.ends();
    assert.deepEqual(events.types, ["error", "close"]);
    assert.equal(socket.readyState, 3);
  });

  test("a connection that opens while the page closes it stays closed", () => {
    const socket = new ReliableWebSocket("/ws");
    const events = recorded(socket);
    socket.close();
    FakeSocket.last.dispatchEvent(new Event("open"));
    assert.equal(socket.readyState, 2);
    assert.deepEqual(events.types, []);
  });
});

describe("a browser without a network", () => {
  let navigator;

  beforeEach(() => {
    navigator = { onLine: false };
    Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
  });

  afterEach(() => {
    delete globalThis.navigator;
  });

  test("gives no page up that was never open, and has its attempts when it is back", () => {
    const socket = new ReliableWebSocket("/ws");
    for (let attempt = 0; attempt < 20; attempt++) loseAndRetry();
    assert.equal(socket.readyState, 0);
    navigator.onLine = true;
    FakeSocket.last.ends();
    assert.equal(socket.readyState, 3);
  });

  for (let flaps = 1; flaps <= 20; flaps += 19) {
    test(`that comes and goes, ${flaps} times, has five attempts once it stays`, () => {
      navigator.onLine = true;
      const socket = new ReliableWebSocket("/ws");
      for (let flap = 0; flap < flaps; flap++) {
        FakeSocket.last.ends();
        page.dispatchEvent(new Event("online"));
      }
      for (let attempt = 1; attempt < 5; attempt++) loseAndRetry();
      assert.equal(socket.readyState, 0);
      FakeSocket.last.ends();
      assert.equal(socket.readyState, 3);
      assert.equal(FakeSocket.all.length, 1 + flaps + 4);
    });
  }

  test("has no attempts where none are wanted", () => {
    const socket = new ReliableWebSocket("/ws", [], { maxAttempts: 0 });
    FakeSocket.last.ends();
    assert.equal(socket.readyState, 3);
  });
});

describe("a function for the URL", () => {
  test("is asked before each attempt", async () => {
    let token = 0;
    const socket = new ReliableWebSocket(() => `/ws?token=${++token}`);
    await settled();
    assert.equal(FakeSocket.last.url, "wss://example.com/ws?token=1");
    FakeSocket.last.opens();
    FakeSocket.last.ends();
    socket.reconnect();
    await settled();
    assert.equal(FakeSocket.last.url, "wss://example.com/ws?token=2");
  });

  test("that fails is asked again", async () => {
    const error = new Error("away");
    const socket = new ReliableWebSocket(() => Promise.reject(error));
    const events = recorded(socket);
    await settled();
    assert.deepEqual(events.types, ["reconnecting"]);
    assert.equal(events[0].error, error);
  });

  test("that throws is asked again, and listeners hear of it", async () => {
    const error = new Error("mistake");
    const socket = new ReliableWebSocket(() => {
      throw error;
    });
    const events = recorded(socket);
    await settled();
    assert.deepEqual(events.types, ["reconnecting"]);
    assert.equal(events[0].error, error);
  });

  test("that returns no URL is the end, with the error", async () => {
    const socket = new ReliableWebSocket(() => "ftp://example.com");
    const events = recorded(socket);
    await settled();
    assert.deepEqual(events.types, ["error", "close"]);
    assert.equal(events[0].error.name, "SyntaxError");
    assert.equal(clock.timers, 0);
    assert.equal(page.listeners, 0);
  });

  test("that answers after the close opens nothing", async () => {
    let answer;
    const socket = new ReliableWebSocket(() => new Promise((resolve) => (answer = resolve)));
    const events = recorded(socket);
    socket.close();
    answer("/ws");
    await settled();
    assert.equal(FakeSocket.all.length, 0);
    assert.deepEqual(events.types, ["error", "close"]);
  });

  test("that fails after the close says nothing", async () => {
    let fail;
    const socket = new ReliableWebSocket(() => new Promise((_, reject) => (fail = reject)));
    socket.close();
    const events = recorded(socket);
    fail(new Error("late"));
    await settled();
    assert.deepEqual(events.types, ["error", "close"]);
  });

  test("that does not answer is given up after the timeout", async () => {
    const socket = new ReliableWebSocket(() => new Promise(() => {}));
    const events = recorded(socket);
    clock.advance(10_000);
    assert.deepEqual(events.types, ["reconnecting"]);
  });
});

describe("a function for the sub-protocols", () => {
  for (const [how, protocols] of [
    ["returns them", (token) => ["jwt", token]],
    ["promises them", async (token) => ["jwt", token]],
  ]) {
    test(`that ${how} is asked before each attempt`, async () => {
      let number = 0;
      const socket = new ReliableWebSocket("/ws", () => protocols(`t${++number}`));
      await settled();
      assert.deepEqual(FakeSocket.last.protocols, ["jwt", "t1"]);
      FakeSocket.last.opens("jwt");
      assert.equal(socket.protocol, "jwt");
      FakeSocket.last.ends();
      socket.reconnect();
      await settled();
      assert.deepEqual(FakeSocket.last.protocols, ["jwt", "t2"]);
      assert.equal(FakeSocket.all.length, 2);
    });
  }

  test("that returns nothing offers none", async () => {
    new ReliableWebSocket("/ws", () => undefined);
    await settled();
    assert.deepEqual(FakeSocket.last.protocols, []);
  });

  test("is asked after that for the URL", async () => {
    const asked = [];
    const url = async () => asked.push("URL") && "/ws";
    new ReliableWebSocket(url, () => asked.push("sub-protocols") && "v1");
    await settled();
    assert.deepEqual(asked, ["URL", "sub-protocols"]);
    assert.equal(FakeSocket.last.protocols, "v1");
  });

  test("that fails is asked again", async () => {
    const error = new Error("away");
    const socket = new ReliableWebSocket("/ws", () => Promise.reject(error));
    const events = recorded(socket);
    await settled();
    assert.deepEqual(events.types, ["reconnecting"]);
    assert.equal(events[0].error, error);
    assert.equal(events[0].reason, "No sub-protocols");
    assert.equal(FakeSocket.all.length, 0);
  });

  test("that returns what is none is the end, with the error", async () => {
    const socket = new ReliableWebSocket("/ws", () => ["no token"]);
    const events = recorded(socket);
    await settled();
    assert.deepEqual(events.types, ["error", "close"]);
    assert.equal(events[0].error.name, "SyntaxError");
    assert.equal(clock.timers, 0);
  });

  test("is not asked when the socket was closed before the URL was known", async () => {
    let answer;
    let asked = 0;
    const url = () => new Promise((resolve) => (answer = resolve));
    const socket = new ReliableWebSocket(url, () => ++asked);
    socket.close();
    answer("/ws");
    await settled();
    assert.equal(asked, 0);
    assert.equal(FakeSocket.all.length, 0);
  });

  test("that answers after the close opens nothing", async () => {
    let answer;
    const socket = new ReliableWebSocket("/ws", () => new Promise((resolve) => (answer = resolve)));
    await settled();
    socket.close();
    answer("v1");
    await settled();
    assert.equal(FakeSocket.all.length, 0);
  });
});

describe("messages without a connection", () => {
  test("wait, and go out in order with the next one", () => {
    const socket = new ReliableWebSocket("/ws");
    socket.send("one");
    socket.send("two");
    assert.equal(socket.bufferedAmount, 6);
    FakeSocket.last.opens();
    assert.deepEqual(FakeSocket.last.sent, ["one", "two"]);
    assert.equal(socket.bufferedAmount, 0);
    loseAndRetry();
    socket.send("three");
    FakeSocket.last.opens();
    assert.deepEqual(FakeSocket.all.map(({ sent }) => sent), [["one", "two"], ["three"]]);
  });

  test("follow what handlers of the open send", () => {
    const socket = new ReliableWebSocket("/ws");
    socket.onopen = () => socket.send("who I am");
    socket.send("one");
    FakeSocket.last.opens();
    assert.deepEqual(FakeSocket.last.sent, ["who I am", "one"]);
  });

  test("are not sent when a handler of the open closes", () => {
    const socket = new ReliableWebSocket("/ws");
    socket.onopen = () => socket.close();
    socket.send("one");
    FakeSocket.last.opens();
    assert.deepEqual(FakeSocket.last.sent, []);
  });

  test("wait as well when the server has closed and the event is still to come", () => {
    const socket = open();
    FakeSocket.last.readyState = 2;
    socket.send("one");
    assert.deepEqual(FakeSocket.last.sent, []);
    loseAndRetry(1012);
    FakeSocket.last.opens();
    assert.deepEqual(FakeSocket.last.sent, ["one"]);
  });

  test("are as they were when they were sent", () => {
    const socket = new ReliableWebSocket("/ws");
    const bytes = new Uint8Array([1, 2, 3, 4]);
    socket.send(bytes.buffer);
    socket.send(bytes.subarray(1, 3));
    socket.send(new Blob(["abc"]));
    socket.send(5);
    assert.equal(socket.bufferedAmount, 4 + 2 + 3 + 1);
    bytes.fill(0);
    FakeSocket.last.opens();
    const [whole, part, blob, text] = FakeSocket.last.sent;
    assert.deepEqual([...new Uint8Array(whole)], [1, 2, 3, 4]);
    assert.deepEqual([...new Uint8Array(part)], [2, 3]);
    assert.equal(blob.size, 3);
    assert.equal(text, "5");
  });

  test("wait for 10 s for a server that has closed and never ends the connection", () => {
    const socket = open();
    const events = recorded(socket);
    FakeSocket.last.readyState = 2;
    socket.send("one");
    clock.advance(5_000);
    socket.send("two");
    clock.advance(4_999);
    assert.deepEqual(events.types, []);
    clock.advance(1);
    assert.deepEqual(events.types, ["reconnecting"]);
    assert.equal(events[0].code, 1006);
    socket.reconnect();
    FakeSocket.last.opens();
    assert.deepEqual(FakeSocket.last.sent, ["one", "two"]);
    assert.equal(clock.timers, 0);
  });

  test("are as they were also when they come from a frame, or from memory that is shared", () => {
    const socket = new ReliableWebSocket("/ws");
    socket.send(runInNewContext("new Uint8Array([1, 2]).buffer"));
    socket.send(runInNewContext("new Uint8Array([1, 2, 3]).subarray(1)"));
    const blob = { [Symbol.toStringTag]: "Blob", size: 3 }; // what a Blob of a frame looks like
    socket.send(blob);
    const shared = new Uint8Array(new SharedArrayBuffer(4), 1, 2).fill(7);
    socket.send(shared);
    socket.send("last");
    assert.equal(socket.bufferedAmount, 2 + 2 + 3 + 2 + 4);
    FakeSocket.last.opens();
    const { sent } = FakeSocket.last;
    const bytes = (buffer) => [...new Uint8Array(buffer)];
    assert.deepEqual([sent[0], sent[1], sent[3]].map(bytes), [[1, 2], [2, 3], [7, 7]]);
    assert.equal(sent[3].constructor, ArrayBuffer);
    assert.equal(sent[2], blob);
    assert.equal(sent[4], "last");
  });

  test("are an error when too many wait", () => {
    const socket = new ReliableWebSocket("/ws", [], { maxQueue: 2 });
    socket.send("one");
    socket.send("two");
    assert.throws(() => socket.send("three"), { name: "QuotaExceededError", message: /maxQueue/ });
    FakeSocket.last.opens();
    assert.deepEqual(FakeSocket.last.sent, ["one", "two"]);
  });

  test("are dropped where that is wanted", () => {
    const socket = new ReliableWebSocket("/ws", [], { queue: false });
    socket.send("one");
    FakeSocket.last.opens();
    socket.send("two");
    assert.deepEqual(FakeSocket.last.sent, ["two"]);
  });

  test("are dropped by a close", () => {
    const socket = open();
    FakeSocket.last.ends();
    socket.send("one");
    socket.close();
    assert.equal(socket.bufferedAmount, 0);
  });
});

describe("the heartbeat", () => {
  const options = { heartbeatInterval: 1000 };

  test("is sent when nothing else was for X", () => {
    const socket = open(options);
    clock.advance(999);
    assert.deepEqual(FakeSocket.last.sent, []);
    clock.advance(1);
    assert.deepEqual(FakeSocket.last.sent, ["\x05"]);
    FakeSocket.last.says("\x06");
    clock.advance(500);
    socket.send("Hello");
    FakeSocket.last.says("Hello");
    clock.advance(999);
    assert.deepEqual(FakeSocket.last.sent, ["\x05", "Hello"]);
    clock.advance(1);
    assert.deepEqual(FakeSocket.last.sent, ["\x05", "Hello", "\x05"]);
  });

  test("has a reply that the page does not see, and a latency", () => {
    const socket = open(options);
    const events = recorded(socket);
    assert.equal(socket.latency, null);
    clock.advance(1000);
    clock.advance(42);
    FakeSocket.last.says("\x06");
    assert.deepEqual(events.types, ["latency"]);
    assert.equal(events[0].latency, 42);
    assert.equal(socket.latency, 42);
    FakeSocket.last.says("\x06"); // nobody asked
    assert.deepEqual(events.types, ["latency", "message"]);
  });

  test("after 2 X of silence the connection is dead", () => {
    const socket = open(options);
    const events = recorded(socket);
    const [native] = FakeSocket.all;
    clock.advance(1999);
    assert.deepEqual(events.types, []);
    clock.advance(1);
    assert.deepEqual(events.types, ["reconnecting"]);
    assert.deepEqual([events[0].code, events[0].reason], [1006, "No message for 2000 ms"]);
    assert.deepEqual(native.closedWith, [3008, "No message for 2000 ms"]);
    native.says("late");
    native.ends();
    assert.deepEqual(events.types, ["reconnecting"]);
  });

  test("a page that sends all the time finds out as well", () => {
    const socket = open(options);
    const events = recorded(socket);
    for (let time = 0; time < 2000; time += 100) {
      socket.send("Hello?");
      clock.advance(100);
    }
    assert.deepEqual(events.types, ["reconnecting"]);
  });

  test("a server that sends all the time is still promised a message", () => {
    const socket = open(options);
    const [native] = FakeSocket.all;
    for (let time = 0; time < 5000; time += 100) {
      native.says("news");
      clock.advance(100);
    }
    assert.equal(native.sent.length, 5);
    assert.equal(socket.readyState, 1);
  });

  test("a server that sends and never answers costs no memory", () => {
    const socket = open(options);
    const [native] = FakeSocket.all;
    for (let time = 0; time < 100; time++) {
      native.says("news");
      clock.advance(1000);
    }
    assert.equal(socket.readyState, 1);
    native.says("\x06");
    assert.ok(socket.latency <= 17_000);
  });

  test("timers that are late find no silence, since nothing was asked for", () => {
    const socket = open(options);
    const events = recorded(socket);
    clock.sleep(60_000);
    clock.advance(0);
    assert.equal(socket.readyState, 1);
    assert.deepEqual(FakeSocket.last.sent, ["\x05"]);
    clock.advance(999);
    assert.deepEqual(events.types, []);
    clock.advance(1);
    assert.deepEqual(events.types, ["reconnecting"]);
  });

  test("a page that comes back into sight asks at once", () => {
    open(options);
    clock.advance(100);
    page.dispatchEvent(new Event("visibilitychange"));
    assert.deepEqual(FakeSocket.last.sent, ["\x05"]);
    page.dispatchEvent(new Event("visibilitychange"));
    assert.deepEqual(FakeSocket.last.sent, ["\x05"]);
  });

  test("while the server closes, nothing is sent", () => {
    open(options);
    FakeSocket.last.readyState = 2;
    clock.advance(1500);
    assert.deepEqual(FakeSocket.last.sent, []);
  });

  test("notices a server that has closed and never ends the connection, and wakes nobody till then", () => {
    const socket = open(options);
    const events = recorded(socket);
    FakeSocket.last.readyState = 2;
    clock.advance(1000);
    assert.equal(clock.next, 10_000);
    clock.advance(10_000);
    assert.deepEqual(events.types, ["reconnecting"]);
    assert.deepEqual([events[0].code, events[0].reason], [1006, "Not closed within 10000 ms"]);
  });

  test("has a reply that the page does not see, also when it closes meanwhile", () => {
    const socket = open(options);
    const events = recorded(socket);
    clock.advance(1000);
    socket.close();
    FakeSocket.last.says("\x06");
    FakeSocket.last.says("said before");
    FakeSocket.last.ends(1000);
    assert.deepEqual(events.types, ["latency", "message", "close"]);
    assert.deepEqual(FakeSocket.last.sent, ["\x05"]);
  });

  test("ends with its connection, and begins with the next", () => {
    const socket = open(options);
    loseAndRetry();
    clock.advance(5000);
    assert.deepEqual(FakeSocket.last.sent, []);
    FakeSocket.last.opens();
    clock.advance(1000);
    assert.deepEqual(FakeSocket.last.sent, ["\x05"]);
    socket.close();
    FakeSocket.last.ends(1000);
    assert.equal(clock.timers, 0);
  });

  test("is none without an interval or a message", () => {
    for (const none of [{}, { heartbeatInterval: 1000, heartbeatMessage: null }]) {
      const socket = open(none);
      clock.advance(100_000);
      assert.deepEqual(FakeSocket.last.sent, []);
      assert.equal(socket.readyState, 1);
    }
  });
});

describe("options", () => {
  test("come from the page, and arguments go first", () => {
    page.settings = { path: "/chat", heartbeatInterval: 1000, heartbeatMessage: "ping" };
    new ReliableWebSocket(undefined, [], { heartbeatMessage: "PING", heartbeatReply: undefined });
    assert.equal(FakeSocket.last.url, "wss://example.com/chat");
    FakeSocket.last.opens();
    clock.advance(1000);
    assert.deepEqual(FakeSocket.last.sent, ["PING"]);
  });

  test("without any URL the error says where one comes from", () => {
    assert.throws(() => new ReliableWebSocket(), { message: /websocket_client/ });
  });

  for (const options of [
    { minDelay: 0 },
    { minDelay: "1" },
    { minDelay: Infinity },
    { maxDelay: 10, minDelay: 11 },
    { maxDelay: 2 ** 31 },
    { maxAttempts: -1 },
    { maxAttempts: 1.5 },
    { maxFirstAttempts: null },
    { connectTimeout: 0 },
    { finalCodes: 1000 },
    { finalCodes: ["1000"] },
    { queue: 1 },
    { maxQueue: NaN },
    { heartbeatInterval: 0 },
    { heartbeatMessage: 5 },
    { heartbeatReply: null },
    { maxdelay: 1000 },
  ]) {
    const [name] = Object.keys(options);
    test(`${JSON.stringify(options)} is an error that names ${name}`, () => {
      assert.throws(() => new ReliableWebSocket("/ws", [], options), {
        name: "TypeError",
        message: new RegExp(name),
      });
      assert.equal(FakeSocket.all.length, 0);
    });
  }
});
