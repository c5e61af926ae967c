// Microsoft's client and ours through the ends of servers: connections of each kind, which come back
// whenever they are lost, and say what they live through, a line of JSON each.
//
//     node hubs.ends.js http://127.0.0.1:8000/hub COUNT KIND...
//
// COUNT is the number of connections of each kind, which are named as in hubs.js. When the standard input ends, each asks the hub once
// more, and is stopped.

import { MessageType } from "@microsoft/signalr";

import { CLIENTS } from "./hubs.js";

const [url, count, ...kinds] = process.argv.slice(2);

async function connect(client, number) {
  const say = (event, rest = {}) =>
    console.log(JSON.stringify({ event, client: `${client.name} ${number}`, ...rest }));
  const hear = ({ type, allowReconnect }) =>
    type === MessageType.Close && say("told", { allowReconnect });
  const delays = { nextRetryDelayInMilliseconds: () => 100 };
  const connection = client.build(url, { delays, hear });
  let losses = 0;
  connection.onreconnecting(() => {
    losses++;
    say("lost");
  });
  connection.onreconnected(async (id) => {
    // Over long polling, a call may fail at a server that ends while the connection stays.
    for (const before = losses; losses === before; await new Promise((resolve) => setTimeout(resolve, 100))) {
      try {
        const answer = await connection.invoke("Who");
        say("back", { id: id ?? answer.id, answer });
        return;
      } catch {
        // It is tried again, unless the connection is lost.
      }
    }
  });
  connection.onclose((error) => say("closed", { error: error && String(error) }));
  await connection.start();
  say("connected", { id: connection.connectionId ?? (await connection.invoke("Who")).id });
  return async () => {
    try {
      say("answered", { answer: await connection.invoke("Who") });
    } finally {
      await connection.stop();
    }
  };
}

const stops = Array.from({ length: Number(count) }, (_, number) =>
  CLIENTS.filter(({ name }) => kinds.includes(name)).map((client) => connect(client, number)),
).flat();

process.stdin.resume().on("end", () => {
  for (const stop of stops) {
    stop.then((each) => each());
  }
});
