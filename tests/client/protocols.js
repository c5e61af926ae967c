// Reads lines of JSON, and answers each with what Microsoft's own protocol says to it.
//
//     {"protocol": "json", "write": message}      its bytes, as base64
//     {"protocol": "json", "parse": base64}       the messages in them

import { createInterface } from "node:readline";
import { JsonHubProtocol } from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";

const protocols = { json: new JsonHubProtocol(), messagepack: new MessagePackHubProtocol() };
const logger = { log() {} };

function answer({ protocol, write, parse }) {
  const { [protocol]: it } = protocols;
  if (write !== undefined) {
    return Buffer.from(it.writeMessage(write)).toString("base64");
  }
  const bytes = Buffer.from(parse, "base64");
  const data = it.transferFormat === 1 ? bytes.toString() : new Uint8Array(bytes).buffer;
  return it.parseMessages(data, logger);
}

for await (const line of createInterface({ input: process.stdin })) {
  let said;
  try {
    said = { value: answer(JSON.parse(line)) };
  } catch (error) {
    said = { error: String(error) };
  }
  console.log(JSON.stringify(said));
}
