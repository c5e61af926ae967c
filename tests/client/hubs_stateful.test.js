// Microsoft's client and ours with a stateful reconnect, through a proxy that cuts TCP connections.
//
//     HUB_SERVERS=http://127.0.0.1:8000,http://127.0.0.1:8001 node --test-reporter=tap hubs_stateful.test.js
//
// HUB_ITEMS is the number of items each way. Node.js 20 needs --experimental-websocket.

import assert from "node:assert/strict";
import { createServer, connect as connectTo } from "node:net";
import { after, describe, it } from "node:test";

import { Subject } from "@microsoft/signalr";

import { STATEFUL_CLIENTS } from "./hubs.js";

const SERVERS = process.env.HUB_SERVERS.split(",").map((url) => new URL(url));
const COUNT = Number(process.env.HUB_ITEMS ?? 10_000);
const BLOCK = COUNT / 10;

const open = [];

/**
 * A proxy whose connections go to the servers in turn, and whose WebSockets can be cut in the middle.
 *
 * `count` says how many items have come to the client.
 */
async function proxy(count) {
  const webSockets = new Set();
  let accepted = 0;
  let before = 0;
  const server = createServer((client) => {
    const { hostname, port } = SERVERS[accepted++ % SERVERS.length];
    const there = connectTo(Number(port), hostname);
    for (const [one, other] of [
      [client, there],
      [there, client],
    ]) {
      one.pipe(other);
      one.on("error", () => {});
      one.on("close", () => {
        webSockets.delete(one);
        other.destroy();
      });
    }
    // Node.js may send the handshake over the connection that it has negotiated over.
    client.on("data", (data) => {
      if (data.subarray(0, 4).toString() === "GET ") {
        before = count();
        webSockets.add(client).add(there);
      }
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  open.push(() => server.close());
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    // Clients try once to come back: an attempt that is cut is the end.
    isConnected: () => count() > before,
    cut() {
      before = Infinity;
      for (const socket of webSockets) {
        socket.resetAndDestroy();
      }
    },
  };
}

async function until(condition) {
  const deadline = performance.now() + 30_000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, "nothing has come through");
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Collect the items of a stream in `found`, until it ends. */
function collect(stream, found) {
  return new Promise((resolve, reject) => {
    stream.subscribe({
      next: (item) => found.push(item),
      complete: () => resolve(found),
      error: reject,
    });
  });
}

after(async () => {
  await Promise.all(open.map((close) => close()));
});

for (const client of STATEFUL_CLIENTS) {
  describe(client.name, { timeout: 60_000 }, () => {
    it("loses nothing and repeats nothing, in both directions", async () => {
      const found = { down: [], up: [] };
      const { url, isConnected, cut } = await proxy(() => found.down.length + found.up.length);
      const hub = client.build(`${url}/stateful-hub`);
      const closed = [];
      hub.onclose((error) => closed.push(error));
      await hub.start();
      open.unshift(() => hub.stop());
      const { connectionId } = hub;

      const down = collect(hub.stream("Counter", COUNT), found.down);
      const numbers = new Subject();
      const up = collect(hub.stream("Double", numbers), found.up);
      for (let number = 0; number < COUNT; number++) {
        numbers.next(number);
        // The first half of a block is sent while the client reconnects, the second while it is
        // connected, and is under way at the cut.
        if (number % BLOCK === BLOCK / 2) {
          await until(isConnected);
        } else if (number % BLOCK === BLOCK - 1) {
          cut();
        }
      }
      numbers.complete();
      const expected = Array.from({ length: COUNT }, (_, number) => number);
      assert.deepEqual(await down, expected);
      assert.deepEqual(
        await up,
        expected.map((number) => 2 * number),
      );
      assert.equal((await hub.invoke("Who")).id, connectionId);
      assert.deepEqual(closed, []);
    });
  });
}
