// Many clients of each kind at the same time.
//
//     HUB_SERVER=http://127.0.0.1:8000 HUB_CLIENTS=200 node --test-reporter=tap hubs_many.test.js
//
// Node.js 20 needs --experimental-websocket.

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { CLIENTS } from "./hubs.js";

const SERVER = process.env.HUB_SERVER;
const COUNT = Number(process.env.HUB_CLIENTS);

for (const client of CLIENTS) {
  describe(client.name, { timeout: 60_000 }, () => {
    it(`has ${COUNT} clients, and each is answered`, async () => {
      const hubs = Array.from({ length: COUNT }, () => client.build(`${SERVER}/hub`));
      const closed = [];
      hubs.forEach((hub) => hub.onclose((error) => closed.push(error)));
      try {
        await Promise.all(hubs.map((hub) => hub.start()));
        for (const round of [1, 2, 3]) {
          const sums = await Promise.all(hubs.map((hub, number) => hub.invoke("Add", number, round)));
          assert.deepEqual(sums, hubs.map((_, number) => number + round));
        }
        assert.deepEqual(closed, []);
      } finally {
        await Promise.all(hubs.map((hub) => hub.stop()));
      }
    });
  });
}
