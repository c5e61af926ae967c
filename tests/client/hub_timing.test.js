// The client of hubs, moment by moment: on a clock that is moved by hand, with sockets that do what a
// test says.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { FakeSocket, faked, settled } from "./fakes.js";
import { hubModule } from "./hub_server.js";

const { HubConnection } = await hubModule();

const PING = { type: 6 };
const KEPT_ALIVE = { keepAliveInterval: 15_000, serverTimeout: 1e9 };

let clock;
let page;

beforeEach(() => {
  ({ clock, page } = faked());
});

function recorded(hub) {
  const events = [];
  for (const type of ["reconnecting", "reconnected", "error", "close"]) {
    hub.addEventListener(type, (each) => events.push(each));
  }
  Object.defineProperty(events, "types", { get: () => events.map(({ type }) => type) });
  return events;
}

/** What was sent on a socket since the last look. */
function sent(socket = FakeSocket.last) {
  return socket.sent.splice(0).flatMap((text) =>
    text.split("\x1e").slice(0, -1).map((each) => JSON.parse(each)),
  );
}

function says(message, socket = FakeSocket.last) {
  socket.says(`${JSON.stringify({ arguments: [], ...message })}\x1e`);
}

async function started(options) {
  const hub = new HubConnection("chat", options);
  const start = hub.start();
  await settled();
  FakeSocket.last.opens();
  FakeSocket.last.says("{}\x1e");
  await start;
  sent();
  return { hub, events: recorded(hub) };
}

test("a relative URL is one of the page", async () => {
  await started();
  assert.equal(FakeSocket.last.url, "wss://example.com/app/chat");
});

describe("keep-alive", () => {
  test("is a ping when nothing else was sent for 15 s", async () => {
    const { hub } = await started({ serverTimeout: 1e9 });
    clock.advance(14_999);
    assert.deepEqual(sent(), []);
    clock.advance(1);
    assert.deepEqual(sent(), [PING]);
    clock.advance(10_000);
    hub.send("Go");
    clock.advance(14_999);
    assert.deepEqual(sent().map(({ type }) => type), [1]);
    clock.advance(1);
    assert.deepEqual(sent(), [PING]);
    clock.advance(15_000);
    assert.deepEqual(sent(), [PING]);
    await hub.send("Go");
    assert.equal(clock.timers, 1);
    assert.equal(clock.next, 15_000);
  });

  test("does not depend on timers, which are slow in a hidden tab", async () => {
    await started(KEPT_ALIVE);
    clock.sleep(15_000);
    says(PING);
    assert.deepEqual(sent(), [PING]);
    clock.sleep(14_999);
    says(PING);
    assert.deepEqual(sent(), []);
  });

  test("is looked after when the page is visible again", async () => {
    await started(KEPT_ALIVE);
    clock.sleep(15_000);
    page.dispatchEvent(new Event("visibilitychange"));
    assert.deepEqual(sent(), [PING]);
  });

  test("sends nothing while the server closes, and wakes nobody till the next one", async () => {
    await started(KEPT_ALIVE);
    FakeSocket.last.readyState = 2;
    clock.advance(15_000);
    assert.deepEqual(sent(), []);
    assert.equal(clock.next, 15_000);
  });
});

describe("silence of the server", () => {
  test("of 30 s is a loss", async () => {
    const { hub, events } = await started();
    const answer = hub.invoke("Add");
    clock.advance(29_999);
    assert.deepEqual(events.types, []);
    clock.advance(1);
    assert.deepEqual(events.types, ["reconnecting"]);
    assert.equal(events[0].reason, "No message for 30000 ms");
    await assert.rejects(answer, { kind: "lost", message: /No message for 30000 ms/ });
    assert.equal(FakeSocket.last.readyState, 2);
  });

  test("ends with any message", async () => {
    const { events } = await started();
    for (let time = 0; time < 10; time++) {
      clock.advance(29_000);
      says(PING);
    }
    assert.deepEqual(events.types, []);
    clock.advance(30_000);
    assert.deepEqual(events.types, ["reconnecting"]);
  });

  test("is none after a sleep, when a message is there", async () => {
    const { events } = await started();
    clock.sleep(3_600_000);
    clock.advance(500);
    assert.deepEqual(events.types, []);
    says(PING);
    clock.advance(29_999);
    assert.deepEqual(events.types, []);
    clock.advance(1);
    assert.deepEqual(events.types, ["reconnecting"]);
  });

  test("is a loss one second after a sleep, also with timers that are slow", async () => {
    for (const [late, wake] of [
      [0, () => clock.advance(0)],
      [0, () => page.dispatchEvent(new Event("visibilitychange"))],
      [60_000, () => clock.advance(0)],
    ]) {
      ({ clock, page } = faked());
      const { events } = await started();
      clock.sleep(3_600_000);
      wake();
      clock.advance(999);
      assert.deepEqual(events.types, []);
      clock.sleep(late);
      clock.advance(1);
      assert.deepEqual(events.types, ["reconnecting"]);
    }
  });
});

describe("an attempt that hangs", () => {
  for (const [what, hang] of [
    ["before it is open", () => {}],
    ["before the answer to the handshake", () => FakeSocket.last.opens()],
  ]) {
    test(`${what} is given up after 10 s`, async () => {
      const hub = new HubConnection("/chat");
      const start = hub.start();
      start.catch(() => {});
      await settled();
      hang();
      clock.advance(9_999);
      assert.equal(hub.state, "Connecting");
      clock.advance(1);
      await assert.rejects(start, { kind: "connect", message: /Not connected within 10000 ms/ });
      assert.equal(FakeSocket.last.readyState, 2);
      assert.equal(clock.timers, 0);
      assert.equal(page.listeners, 0);
    });
  }

  for (const name of ["the URL", "the token"]) {
    test(`for ${name} is given up, and its answer is too late`, async () => {
      let late;
      let asked = 0;
      const token = () => {
        asked += 1;
        return "";
      };
      const hanging = () => new Promise((...both) => (late = both));
      const hub =
        name === "the URL"
          ? new HubConnection(hanging, { accessTokenFactory: token, maxFirstAttempts: 1 })
          : new HubConnection("/chat", { accessTokenFactory: hanging, maxFirstAttempts: 1 });
      hub.start().catch(() => {});
      for (const settle of [0, 1]) {
        await settled();
        clock.advance(10_000);
        late[settle]("/late");
        await settled();
        assert.equal(FakeSocket.all.length, 0);
        if (settle === 0) clock.advance(clock.next);
      }
      assert.equal(hub.state, "Disconnected");
      assert.equal(asked, 0);
    });
  }

  test("has failed also where no close event comes, as in Node.js 20", async () => {
    const hub = new HubConnection("/chat");
    const start = hub.start();
    await settled();
    FakeSocket.last.readyState = 3;
    FakeSocket.last.dispatchEvent(new Event("error")); // of a browser, where one comes
    assert.equal(hub.state, "Connecting");
    FakeSocket.last.readyState = 0;
    FakeSocket.last.dispatchEvent(new Event("error"));
    await assert.rejects(start, { kind: "connect" });
  });
});

describe("reconnecting", () => {
  test("is at once when the browser is online again", async () => {
    const { hub, events } = await started();
    FakeSocket.last.ends();
    page.dispatchEvent(new Event("online"));
    await settled();
    assert.equal(FakeSocket.all.length, 2);
    FakeSocket.last.opens();
    says({});
    assert.deepEqual(events.types, ["reconnecting", "reconnected"]);
    assert.equal(hub.state, "Connected");
  });

  test("has a backoff that does not begin anew with a server that closes at once", async () => {
    const { hub, events } = await started({ maxAttempts: 3 });
    for (let attempt = 0; attempt < 3; attempt++) {
      FakeSocket.last.ends(1013);
      hub.reconnect();
      await settled();
      FakeSocket.last.opens();
      FakeSocket.last.says("{}\x1e");
    }
    FakeSocket.last.ends(1013);
    assert.deepEqual(events.types.slice(-2), ["error", "close"]);
    assert.equal(page.listeners, 0);
    assert.equal(clock.timers, 0);
  });

  test("has nothing to do with the socket before", async () => {
    const { hub, events } = await started();
    const [old] = FakeSocket.all;
    const calls = [];
    hub.on("Go", () => calls.push("called"));
    clock.advance(30_000);
    hub.reconnect();
    await settled();
    FakeSocket.last.opens();
    FakeSocket.last.says("{}\x1e");
    says({ type: 1, target: "Go" }, old);
    old.says("nonsense");
    old.ends();
    assert.deepEqual(calls, []);
    assert.deepEqual(events.types, ["reconnecting", "reconnected"]);
  });
});

describe("a browser without a network", () => {
  afterEach(() => delete globalThis.navigator);

  test("starts when it has one", async () => {
    const navigator = { onLine: false };
    Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
    const hub = new HubConnection("/chat");
    const start = hub.start();
    await settled();
    FakeSocket.last.ends();
    assert.equal(hub.state, "Connecting");
    page.dispatchEvent(new Event("online"));
    await settled();
    FakeSocket.last.opens();
    FakeSocket.last.says("{}\x1e");
    await start;
  });
});

describe("stop()", () => {
  test("waits for 10 s for a server that never answers", async () => {
    const { hub, events } = await started();
    const stop = hub.stop();
    clock.advance(9_999);
    assert.equal(hub.state, "Disconnecting");
    clock.advance(1);
    await stop;
    assert.deepEqual(events.types, ["close"]);
    const { code, reason, wasClean } = events[0];
    assert.deepEqual([code, reason, wasClean], [1006, "Not closed within 10000 ms", false]);
    FakeSocket.last.ends();
    assert.deepEqual(events.types, ["close"]);
  });

  test("drops what the server still says", async () => {
    const { hub, events } = await started();
    const calls = [];
    hub.on("Go", () => calls.push("called"));
    const stop = hub.stop();
    says({ type: 1, target: "Go" });
    FakeSocket.last.says("nonsense");
    FakeSocket.last.ends(1005);
    await stop;
    assert.deepEqual(calls, []);
    assert.deepEqual(events.types, ["close"]);
  });

  test("leaves nothing behind", async () => {
    const { hub } = await started();
    FakeSocket.last.bufferedAmount = 2e6;
    const waiting = hub.send("Go");
    const stop = hub.stop();
    FakeSocket.last.ends(1005);
    await stop;
    await assert.rejects(waiting, { kind: "lost", message: /not sent/ });
    assert.equal(clock.timers, 0);
    assert.equal(page.listeners, 0);
  });
});

describe("while much is unsent", () => {
  test("calls and the items of uploads wait", async () => {
    const { hub } = await started({ maxUnsent: 1000, maxQueue: 2 });
    let asked = 0;
    async function* items() {
      for (;;) yield (asked += 1);
    }
    FakeSocket.last.bufferedAmount = 999;
    await hub.send("Up", items());
    FakeSocket.last.bufferedAmount = 1000;
    await settled();
    const before = asked;
    assert.deepEqual(new Set(sent().map(({ type }) => type)), new Set([1, 2]));
    const order = [];
    const call = hub.send("Later").then(() => order.push("Later"));
    await assert.rejects(hub.invoke("Add"), { kind: "limit", message: /maxQueue/ });
    clock.advance(1000);
    await settled();
    assert.equal(asked, before);
    assert.deepEqual(sent(), []);
    FakeSocket.last.bufferedAmount = 0;
    FakeSocket.last.send = function (data) {
      this.sent.push(data);
      this.bufferedAmount += 600;
    };
    clock.advance(20);
    await call;
    assert.deepEqual(sent().map(({ type, target }) => target ?? type), [2, "Later"]);
  });

  test("pings do not", async () => {
    await started(KEPT_ALIVE);
    FakeSocket.last.bufferedAmount = 1e9;
    clock.advance(15_000);
    assert.deepEqual(sent(), [PING]);
  });

  test("calls wait as well when the server has closed and the event is still to come", async () => {
    const { hub } = await started();
    FakeSocket.last.readyState = 2;
    const call = hub.send("Go");
    clock.advance(100);
    assert.deepEqual(sent(), []);
    FakeSocket.last.ends();
    await assert.rejects(call, { kind: "lost" });
  });
});

describe("a stateful connection", () => {
  const { fetch } = globalThis;

  beforeEach(() => {
    const offer = {
      negotiateVersion: 1,
      connectionId: "public",
      connectionToken: "secret",
      availableTransports: [{ transport: "WebSockets", transferFormats: ["Text"] }],
      useStatefulReconnect: true,
    };
    globalThis.fetch = async () => new Response(JSON.stringify(offer));
  });

  afterEach(() => (globalThis.fetch = fetch));

  async function stateful(options) {
    const hub = new HubConnection("/chat", { stateful: true, ...options });
    const start = hub.start();
    while (FakeSocket.all.length === 0) await settled();
    FakeSocket.last.opens();
    FakeSocket.last.says("{}\x1e");
    await start;
    sent();
    return { hub, events: recorded(hub) };
  }

  async function resume() {
    await settled();
    FakeSocket.last.opens();
    says({ type: 9, sequenceId: 1 });
  }

  const go = { type: 1, target: "Go" };

  test("acknowledges what is new, at most once a second", async () => {
    const { hub } = await stateful();
    clock.advance(5_000);
    assert.deepEqual(sent(), []);
    says(go);
    clock.advance(600);
    says(go);
    clock.advance(399);
    assert.deepEqual(sent(), []);
    clock.advance(1);
    assert.deepEqual(sent(), [{ type: 8, sequenceId: 2 }]);
    says(PING);
    clock.advance(5_000);
    assert.deepEqual(sent(), []);
    says(go);
    clock.advance(1_000);
    assert.deepEqual(sent(), [{ type: 8, sequenceId: 3 }]);
    await hub.send("Go");
  });

  test("acknowledges each 32 KB besides, and does not do it twice", async () => {
    await stateful();
    says({ ...go, arguments: ["x".repeat(20_000)] });
    assert.deepEqual(sent(), []);
    says({ ...go, arguments: ["x".repeat(20_000)] });
    assert.deepEqual(sent(), [{ type: 8, sequenceId: 2 }]);
    clock.advance(5_000);
    assert.deepEqual(sent(), []);
    says(go);
    assert.deepEqual(sent(), []);
  });

  test("acknowledges again what the server repeats", async () => {
    await stateful();
    says(go);
    FakeSocket.last.ends();
    clock.advance(1_000); // for an Ack that nobody gets
    await resume();
    sent();
    clock.advance(999);
    assert.deepEqual(sent(), []);
    clock.advance(1);
    assert.deepEqual(sent(), [{ type: 8, sequenceId: 1 }]);
  });

  test("is resumed after silence, and the silent socket closed only then", async () => {
    const { hub, events } = await stateful();
    const [silent] = FakeSocket.all;
    clock.advance(30_000);
    await settled();
    assert.equal(FakeSocket.all.length, 2);
    FakeSocket.last.opens();
    assert.equal(silent.readyState, 1);
    says({ type: 9, sequenceId: 1 });
    assert.equal(silent.readyState, 2);
    const calls = [];
    hub.on("Go", () => calls.push("called"));
    says(go, silent);
    silent.ends();
    assert.deepEqual(calls, []);
    assert.deepEqual(events.types, []);
    assert.equal(hub.state, "Connected");
    sent();
    clock.advance(15_000);
    assert.deepEqual(sent(), [PING]);
  });

  test("sends nothing on the silent socket", async () => {
    const { hub } = await stateful();
    const [silent] = FakeSocket.all;
    clock.advance(30_000);
    sent(silent);
    await hub.send("Go");
    assert.deepEqual(sent(silent), []);
    await resume();
    assert.deepEqual(sent().map(({ type }) => type), [9, 1]);
  });

  test("sends what has waited for room on the socket that is lost", async () => {
    const { hub } = await stateful();
    FakeSocket.last.bufferedAmount = 2 ** 20;
    const call = hub.send("Go");
    assert.deepEqual(sent(), []);
    FakeSocket.last.ends();
    await resume();
    await call;
    assert.deepEqual(sent().map(({ type }) => type), [9, 1]);
  });

  test("whose server says no Sequence begins anew", async () => {
    const { events } = await stateful();
    clock.advance(30_000);
    await settled();
    FakeSocket.last.opens();
    clock.advance(9_999);
    assert.deepEqual(events.types, []);
    clock.advance(1);
    assert.deepEqual(events.types, ["reconnecting"]);
    assert.deepEqual(FakeSocket.all.map(({ readyState }) => readyState), [2, 2]);
  });

  test("that lasts for less than minDelay is resumed 16 times in a row", async () => {
    clock.sleep(1e6);
    for (const [lasts, resumes] of [[999, 16], [1_000, 50]]) {
      FakeSocket.all = [];
      const { hub, events } = await stateful();
      for (let count = 0; count < resumes; count++) {
        clock.advance(lasts);
        FakeSocket.last.ends();
        await resume();
      }
      assert.deepEqual(events.types, []);
      clock.advance(lasts);
      FakeSocket.last.ends();
      assert.deepEqual(events.types, lasts < 1_000 ? ["reconnecting"] : []);
      await hub.stop();
    }
  });

  test("ends while the token to resume it is awaited", async () => {
    let settle;
    let isAsked = false;
    const accessTokenFactory = () => isAsked ? new Promise((...both) => (settle = both)) : "";
    for (const how of [0, 1]) {
      FakeSocket.all = [];
      isAsked = false;
      const { hub, events } = await stateful({ accessTokenFactory });
      isAsked = true;
      FakeSocket.last.ends();
      await settled();
      await hub.stop();
      settle[how]("late");
      await settled();
      assert.equal(FakeSocket.all.length, 1);
      assert.deepEqual(events.types, ["close"]);
    }
  });

  test("leaves nothing behind", async () => {
    const { hub } = await stateful();
    let answer;
    hub.on("Ask", () => new Promise((resolve) => (answer = resolve)));
    says({ type: 1, target: "Ask", invocationId: "s1" });
    hub.send("Full", "x".repeat(100_000));
    hub.send("Waits").catch(() => {});
    const stop = hub.stop();
    FakeSocket.last.ends(1005);
    await stop;
    answer("late");
    await settled();
    assert.equal(clock.timers, 0);
    assert.equal(page.listeners, 0);
  });
});
