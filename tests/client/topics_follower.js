// Follow a topic, and say what comes of it, a line of JSON each:
//
//     node topics_follower.js http://127.0.0.1:8000/topics-hub TOPIC
//
// It ends with the message "the end". Node.js 20 needs --experimental-websocket.

import { hubModule } from "./hub_server.js";

const [url, name] = process.argv.slice(2);
const { Topics } = await hubModule("topics.js");

const topics = new Topics(url, {
  minDelay: 50,
  maxDelay: 200,
  connectTimeout: 1_000,
  keepAliveInterval: 200,
  serverTimeout: 1_000,
});
const room = topics.subscribe(name);
for (const type of ["subscribed", "recovered", "gap", "error"]) {
  room.addEventListener(type, ({ code }) => console.log(JSON.stringify({ type, code })));
}
room.addEventListener("message", ({ type, data }) => {
  console.log(JSON.stringify({ type, data }));
  if (data === "the end") topics.stop();
});
