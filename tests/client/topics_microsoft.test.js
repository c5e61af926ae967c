// Microsoft's client, with the hub of topics of a real server, at TOPICS_HUB.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { HubConnectionBuilder, JsonHubProtocol, LogLevel } from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";

const FORBIDDEN =
  "An unexpected error occurred invoking 'Subscribe' on the server." +
  " HubException: forbidden: There is no such topic for you.";

for (const Protocol of [JsonHubProtocol, MessagePackHubProtocol]) {
  describe(Protocol.name, { timeout: 20_000 }, () => {
    test("subscribes, publishes, reads the history, and comes back", async () => {
      const build = async () => {
        const heard = [];
        const connection = new HubConnectionBuilder()
          .withUrl(process.env.TOPICS_HUB)
          .withHubProtocol(new Protocol())
          .configureLogging(LogLevel.None)
          .build();
        connection.on("Message", (name, position, data) => heard.push([name, position, data]));
        connection.on("Presence", (name, { whole, count }) => heard.push([name, whole, count]));
        await connection.start();
        return { connection, heard };
      };
      const { connection, heard } = await build();
      const name = `room/${Protocol.name}`;
      const begun = await connection.invoke("Subscribe", name, null);
      assert.deepEqual(Object.keys(begun).sort(), ["position", "recovered"]);
      const first = await connection.invoke("Publish", name, { text: "hi" }, null);
      assert.deepEqual(heard, [[name, first, { text: "hi" }]]);
      const second = await connection.invoke("Publish", name, "text", null);
      await assert.rejects(connection.invoke("Subscribe", "nowhere", null), { message: FORBIDDEN });
      const history = await connection.invoke("History", name, begun.position, null);
      assert.deepEqual(
        history.messages.map(({ data }) => data),
        [{ text: "hi" }, "text"],
      );
      await connection.stop();

      const again = await build();
      const options = { since: first, presence: "watch" };
      const back = await again.connection.invoke("Subscribe", name, options);
      assert.deepEqual(back, { recovered: true, position: second });
      assert.deepEqual(again.heard[0], [name, second, "text"]);
      const { count } = await again.connection.invoke("Members", name);
      assert.equal(count, 0);
      assert.equal(await again.connection.invoke("Unsubscribe", name), null);
      await again.connection.stop();
    });
  });
}
