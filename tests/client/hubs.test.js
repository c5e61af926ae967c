// Microsoft's client and ours against a hub: each behaviour, over each transport and protocol.
//
//     HUB_SERVER=http://127.0.0.1:8000 node --test-reporter=tap hubs.test.js
//
// The server has WS_SUPPORT["HUBS"] = {"ALLOW_STATEFUL_RECONNECTS": True}. Node.js 20 needs
// --experimental-websocket.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, describe, it } from "node:test";

import { Subject } from "@microsoft/signalr";

import { CLIENTS, STATEFUL_CLIENTS, closeForgottenSockets } from "./hubs.js";

const ALL = [...CLIENTS, ...STATEFUL_CLIENTS];
const [FIRST] = CLIENTS;

const SERVER = process.env.HUB_SERVER;
const BOUND = 20_000;

// `fetch` keeps idle connections for 4 s, and servers for 5 s. On a busy machine it may find out too
// late that the server has closed one, and a POST is not repeated.
await fetch("data:,"); // What it sends with is there from its first use on.
const DISPATCHER = Symbol.for("undici.globalDispatcher.1");
globalThis[DISPATCHER] = new globalThis[DISPATCHER].constructor({ keepAliveTimeout: 500 });

const open = new Set();

/** A connection that is started, and stopped at the end of the tests. */
async function connect(client, options = {}, path = "/hub") {
  const connection = build(client, options, path);
  await connection.start();
  return connection;
}

function build(client, { server = SERVER, ...options } = {}, path = "/hub") {
  const connection = client.build(server + path, options);
  open.add(connection);
  return connection;
}

/** What a connection is told, one after the other. */
function told(connection) {
  const waiting = [];
  const heard = [];
  connection.on("Told", (text) => {
    if (waiting.length) {
      waiting.shift()(text);
    } else {
      heard.push(text);
    }
  });
  return () =>
    heard.length ? heard.shift() : bounded(new Promise((resolve) => waiting.push(resolve)));
}

function bounded(promise, what = "message") {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} in time`)), BOUND);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The items of a stream. With a limit, the stream is cancelled after so many. */
function items(stream, limit = Infinity) {
  return bounded(
    new Promise((resolve, reject) => {
      const found = [];
      const subscription = stream.subscribe({
        next(item) {
          found.push(item);
          if (found.length === limit) {
            subscription.dispose();
            resolve(found);
          }
        },
        error: reject,
        complete: () => resolve(found),
      });
    }),
    "end of a stream",
  );
}

/** The next end of a connection: its error. */
function end(connection) {
  return bounded(new Promise((resolve) => connection.onclose(resolve)), "end");
}

// A server that sends each client on to the real one, with a token.
const redirecting = createServer((request, response) => {
  response.end(JSON.stringify({ url: `${SERVER}/hub`, accessToken: "ada" }));
});
await once(redirecting.listen(0, "127.0.0.1"), "listening");
const REDIRECTING = `http://127.0.0.1:${redirecting.address().port}`;

after(async () => {
  await Promise.all([...open].map((connection) => connection.stop()));
  closeForgottenSockets();
  redirecting.close();
});

for (const client of ALL) {
  const { transport, protocol } = client;
  describe(client.name, { concurrency: true, timeout: 4 * BOUND }, () => {
    const shared = connect(client);
    const run = (name, test) => it(name, async () => test(await shared));

    run("echoes values of every kind", async (hub) => {
      for (const value of [1, -2.5, "text", "é\u2028\u{1f600}", true, null, [1, [2]], { a: { b: 1 } }, ""]) {
        assert.deepEqual(await hub.invoke("Echo", value), value);
      }
    });

    run("answers methods that are no coroutines", async (hub) => {
      assert.equal(await hub.invoke("EchoAtOnce", 3), 3);
    });

    run("answers a method without a result with null", async (hub) => {
      assert.equal(await hub.invoke("Nothing"), null);
    });

    run("finds methods by each spelling", async (hub) => {
      for (const name of ["EchoAtOnce", "echoAtOnce", "echo_at_once", "ECHOATONCE"]) {
        assert.equal(await hub.invoke(name, 1), 1);
      }
    });

    run("keeps the text of an exception to itself", async (hub) => {
      await assert.rejects(hub.invoke("Fail"), {
        message: "An unexpected error occurred invoking 'Fail' on the server.",
      });
    });

    it("tells the text of an exception where that is wanted", async () => {
      const hub = await connect(client, {}, "/detailed-hub");
      await assert.rejects(hub.invoke("Fail"), {
        message:
          "An unexpected error occurred invoking 'Fail' on the server. LookupError: the secret",
      });
    });

    run("tells the text of a HubException", async (hub) => {
      await assert.rejects(hub.invoke("Refuse"), {
        message: "An unexpected error occurred invoking 'Refuse' on the server. HubException: Not now",
      });
    });

    run("refuses arguments of a wrong number or type", async (hub) => {
      const message = "Failed to invoke 'Add' due to an error on the server.";
      await assert.rejects(hub.invoke("Add", 1), { message });
      await assert.rejects(hub.invoke("Add", 1, "two"), { message });
      assert.equal(await hub.invoke("Add", 1, 2), 3);
    });

    run("refuses unknown methods, and those of its base", async (hub) => {
      for (const name of ["Unknown", "OnConnected", "get_user_identifier"]) {
        await assert.rejects(hub.invoke(name), {
          message: `Failed to invoke '${name}' due to an error on the server. HubException: Method does not exist.`,
        });
      }
    });

    run("takes what nobody waits for", async (hub) => {
      const before = await hub.invoke("Count");
      await hub.send("Count");
      await hub.send("Fail");
      assert.equal(await hub.invoke("Count"), before + 2);
    });

    run("streams no, three and many items", async (hub) => {
      assert.deepEqual(await items(hub.stream("Counter", 0)), []);
      assert.deepEqual(await items(hub.stream("Counter", 3)), [0, 1, 2]);
      assert.equal((await items(hub.stream("Counter", 2000))).length, 2000);
    });

    run("cancels an endless stream", async (hub) => {
      assert.deepEqual(await items(hub.stream("Endless"), 3), [0, 1, 2]);
      assert.equal(await hub.invoke("Echo", 1), 1);
    });

    run("ends a stream with the error of its method", async (hub) => {
      await assert.rejects(items(hub.stream("BrokenStream")), {
        message: "An error occurred on the server while streaming results. HubException: Broken",
      });
    });

    run("refuses a stream as an invocation, and the other way round", async (hub) => {
      await assert.rejects(hub.invoke("Counter", 1), {
        message:
          "The client attempted to invoke the streaming 'Counter' method with a non-streaming invocation.",
      });
      await assert.rejects(items(hub.stream("Echo", 1)), {
        message:
          "The client attempted to invoke the non-streaming 'Echo' method with a streaming invocation.",
      });
    });

    run("takes an upload stream", async (hub) => {
      const parts = new Subject();
      const answer = hub.invoke("Join", parts);
      for (const part of ["a", "b", "c"]) {
        parts.next(part);
      }
      parts.complete();
      assert.equal(await bounded(answer), "abc");
    });

    run("hands the error of an upload stream to its method", async (hub) => {
      const parts = new Subject();
      const answer = hub.invoke("Join", parts);
      parts.next("a");
      parts.error("Something bad");
      await assert.rejects(bounded(answer), {
        message:
          "An unexpected error occurred invoking 'Join' on the server. HubException: Something bad",
      });
    });

    run("streams in both directions at the same time", async (hub) => {
      const numbers = new Subject();
      const doubled = items(hub.stream("Double", numbers));
      for (const number of [1, 2, 3]) {
        numbers.next(number);
      }
      numbers.complete();
      assert.deepEqual(await doubled, [2, 4, 6]);
    });

    it("asks a client, also while another invocation waits", async () => {
      const hub = await connect(client);
      hub.on("AskForNumber", async () => {
        await hub.invoke("Nothing");
        return 42;
      });
      assert.equal(await bounded(hub.invoke("Ask", "AskForNumber")), 42);
    });

    it("is told when a client has no answer, or another one", async () => {
      const hub = await connect(client);
      hub.on("Throws", () => {
        throw new Error("no idea");
      });
      hub.on("Text", () => "a text");
      await assert.rejects(hub.invoke("Ask", "NoHandler"), /Client didn't provide a result/);
      await assert.rejects(hub.invoke("Ask", "Throws"), /Error: no idea/);
      await assert.rejects(hub.invoke("Ask", "Text"), /Error trying to deserialize result/);
    });

    it("reaches exactly whom a selector names", async () => {
      const group = `group ${client.name}`;
      const user = client.name.replaceAll(", ", "-");
      const hubs = [];
      for (const name of [`${user}-1`, `${user}-2`, `${user}-2`]) {
        hubs.push(await connect(client, { accessTokenFactory: () => name }));
      }
      const ids = [];
      for (const hub of hubs) {
        ids.push((await hub.invoke("Who")).id);
      }
      const heard = hubs.map(told);
      await hubs[0].invoke("Enter", group);
      await hubs[1].invoke("Enter", group);
      const expect = async (selector, args, who) => {
        const text = `${selector} ${args}`;
        await hubs[0].invoke("Tell", selector, args, text);
        for (const index of who) {
          assert.equal(await heard[index](), text, `${index}`);
        }
        // What was not for the others would come before this.
        for (const index of [0, 1, 2]) {
          await hubs[0].invoke("Tell", "client", [ids[index]], "end");
          assert.equal(await heard[index](), "end", `${text}, ${index}`);
        }
      };
      await expect("caller", [], [0]);
      await expect("client", [ids[2]], [2]);
      await expect("clients", [[ids[1], ids[2]]], [1, 2]);
      await expect("group", [group], [0, 1]);
      await expect("groups", [[group, "empty"]], [0, 1]);
      await expect("group_except", [group, [ids[1]]], [0]);
      await expect("others_in_group", [group], [1]);
      await expect("user", [`${user}-2`], [1, 2]);
      await expect("users", [[`${user}-1`, `${user}-2`]], [0, 1, 2]);
      await hubs[1].invoke("Leave", group);
      await expect("group", [group], [0]);
      await hubs[0].invoke("TellFromOutside", group, "from outside");
      assert.equal(await heard[0](), "from outside");
    });

    it("reaches everybody, and everybody but some", async () => {
      // Nobody else is told anything there.
      const hub = await connect(client, {}, "/detailed-hub");
      const other = await connect(client, {}, "/detailed-hub");
      const { id } = await other.invoke("Who");
      const until = async (hear, text) => {
        while ((await hear()) !== text) {
          // From another test.
        }
      };
      const [here, there] = [told(hub), told(other)];
      const { name } = client;
      await hub.invoke("Tell", "all", [], `all ${name}`);
      await until(here, `all ${name}`);
      await until(there, `all ${name}`);
      await hub.invoke("Tell", "others", [], `others ${name}`);
      await until(there, `others ${name}`);
      await hub.invoke("Tell", "all_except", [[id]], `all but ${name}`);
      await until(here, `all but ${name}`);
    });

    run("converts objects with dates, bytes and numbers", async (hub) => {
      const bytes = protocol === "json" ? "AQI=" : new Uint8Array([1, 2]);
      const person = {
        name: "Ada",
        born: protocol === "json" ? "1815-12-10T00:00:00Z" : new Date("1815-12-10T00:00:00Z"),
        photo: bytes,
        id: "6fa459ea-ee8a-3ca4-894e-db77e160355e",
        balance: 1.5,
      };
      const back = await hub.invoke("Greet", person);
      assert.deepEqual({ ...back, photo: [...back.photo] }, { ...person, photo: [...bytes] });
    });

    run("has an id, and says which transport it uses", async (hub) => {
      const { id, transport: used } = await hub.invoke("Who");
      assert.equal(used, transport);
      assert.equal(hub.connectionId, client.negotiates ? id : null);
      assert.match(id, /^[\w-]{24}$/);
    });

    it("hears tokens of the client", async () => {
      const hub = await connect(client, { accessTokenFactory: () => "ada" });
      assert.equal((await hub.invoke("Who")).user, "ada");
      assert.equal(await hub.invoke("ForUsers"), "for users");
    });

    if (client.sendsHeaders) {
      it("hears headers of the client", async () => {
        const hub = await connect(client, { headers: { "X-Tenant": "blue" } });
        assert.equal(await hub.invoke("Header", "X-Tenant"), "blue");
      });
    }

    run("refuses a method to whom it is not for", async (hub) => {
      await assert.rejects(hub.invoke("ForUsers"), {
        message: "Failed to invoke 'ForUsers' because user is unauthorized",
      });
    });

    it("refuses a hub to whom it is not for", async () => {
      const nobody = build(client, {}, "/closed-hub");
      await assert.rejects(nobody.start(), client.isRefused(401));
      const options = { accessTokenFactory: () => "ada" };
      const hub = await connect(client, options, "/closed-hub");
      assert.equal(await hub.invoke("Echo", 1), 1);
    });

    it("refuses a hub to whom a permission is missing", async () => {
      const options = { accessTokenFactory: () => "ada" };
      const refused = build(client, options, "/admins-hub");
      await assert.rejects(refused.start(), client.isRefused(403));
      const admin = { accessTokenFactory: () => "admin" };
      const hub = await connect(client, admin, "/admins-hub");
      assert.equal(await hub.invoke("Echo", 1), 1);
    });

    if (client.negotiates) {
      it("comes from a server that has sent the client on, with a token", async () => {
        const hub = await connect(client, { server: REDIRECTING }, "/anything");
        assert.equal((await hub.invoke("Who")).user, "ada");
      });
    }

    if (transport === "LongPolling") {
      it("polls on when a poll was answered with nothing", async () => {
        const hub = await connect(client, {}, "/pinging-hub");
        assert.equal(await hub.invoke("Wait", 0.5), "waited");
      });
    } else {
      it("stays through pings while nothing else is sent", async () => {
        const hub = await connect(client, { serverTimeout: 600 }, "/pinging-hub");
        assert.equal(await hub.invoke("Wait", 0.9), "waited");
      });

      it("gives a server up that is silent", async () => {
        const hub = await connect(client, { serverTimeout: 100 });
        const ended = end(hub);
        hub.invoke("Nothing").catch(() => {}); // From here on.
        const error = await ended;
        // A stateful reconnect comes first, and may be what fails.
        if (client.isStateful) assert.ok(error);
        else assert.match(String(error), /Server timeout elapsed|No message for 100 ms/);
      });

      it("is given up when it pings no more", async () => {
        // The first ping follows the handshake, the next one only after 15 s. Microsoft's client tells
        // nobody of an end that comes before it has sent the first one: on a busy machine, once more.
        const timeout = 1_000;
        for (let attempt = 0; attempt < 10; attempt++) {
          const hub = build(client, {}, "/impatient-hub");
          const ended = new Promise((resolve) => hub.onclose(resolve));
          const before = performance.now();
          const failed = await hub.start().then(() => false, () => true);
          if (failed || performance.now() - before > timeout) continue;
          assert.match(String(await bounded(ended, "end")), /Connection closed with an error\./);
          return;
        }
        assert.fail("it never started in time");
      });
    }

    run("sends what is larger than one buffer", async (hub) => {
      assert.equal((await hub.invoke("Large", 300_000)).length, 300_000);
    });

    it("ends for a message that is too large", async () => {
      const hub = await connect(client);
      const ended = end(hub);
      hub.invoke("Echo", "x".repeat(40_000)).catch(() => {});
      assert.match(String(await ended), /Connection closed with an error/);
    });

    it("ends for good when the server wants it", async () => {
      const hub = await connect(client, { delays: [0, 100, 500, 1000] });
      const ended = end(hub);
      hub.invoke("Abort").catch(() => {});
      assert.equal(await ended, undefined);
    });

    run("goes on after what cannot be sent", async (hub) => {
      await assert.rejects(hub.invoke("Unsendable"), /An unexpected error occurred/);
      assert.equal(await hub.invoke("Echo", 1), 1);
    });

    run("keeps the order of many invocations", async (hub) => {
      const answers = await Promise.all(
        Array.from({ length: 200 }, (_, number) => hub.invoke("Echo", number)),
      );
      assert.deepEqual(answers, Array.from({ length: 200 }, (_, number) => number));
    });
  });
}

describe("WebSockets without a negotiation", { timeout: BOUND }, () => {
  for (const client of CLIENTS.filter((each) => each.negotiates && each.transport === "WebSockets")) {
    it(`work with ${client.protocol}`, async () => {
      const hub = await connect(client, { skipNegotiation: true });
      assert.equal(await hub.invoke("Add", 1, 2), 3);
    });
  }
});

describe("A hub with one transport", { timeout: BOUND }, () => {
  it("is found by a client that has all of them", async () => {
    const hub = await connect(FIRST, { transport: undefined }, "/polled-hub");
    assert.equal((await hub.invoke("Who")).transport, "LongPolling");
  });

  for (const client of ALL.filter((each) => each.transport !== "LongPolling")) {
    it(`refuses ${client.name}`, async () => {
      await assert.rejects(build(client, {}, "/polled-hub").start(), client.isNotOffered);
    });
  }

  it("refuses WebSockets without a negotiation, too", async () => {
    const hub = build(FIRST, { skipNegotiation: true }, "/polled-hub");
    await assert.rejects(hub.start(), /WebSocket failed to connect/);
  });
});
