// What Node.js users would write with `ws`, and how its documentation broadcasts: node server.mjs PORT
import { WebSocket, WebSocketServer } from "ws";

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  maxPayload: 1048576,
});
const subscribers = new Set();

function publish(data, isBinary) {
  for (const subscriber of subscribers) {
    if (subscriber.readyState === WebSocket.OPEN) {
      subscriber.send(data, { binary: isBinary });
    }
  }
}

server.on("connection", (socket, request) => {
  if (request.url === "/topic") {
    subscribers.add(socket);
    socket.on("close", () => subscribers.delete(socket));
  } else if (request.url === "/publish") {
    socket.on("message", publish);
  } else {
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  }
});
