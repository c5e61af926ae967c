// What hub.js has under way with a server: calls, streams, uploads, and messages that are not sent yet.

import { ReliableWebSocket, answer, byteSize } from "./client.js";
import {
  COUNTED,
  HubError,
  Type,
  completion,
  written,
  writtenCall,
  writtenItem,
} from "./hub_protocol.js";

const BUFFER_SIZE = 100_000; // bytes that are kept for a stateful reconnect
const ACK_DELAY = 1_000; // milliseconds
const ACK_SIZE = 32 * 1024; // bytes
const UNSENT_TICK = 20; // milliseconds

/** What server and client have in common from a handshake on: calls, streams, and what is not sent yet. */
export class Session {
  #options;
  #buffer;
  #outbox;
  #calls = new Map();
  #uploads = new Set();
  #answers = 0;
  #nextId = 0;

  constructor(options, isStateful) {
    this.#options = options;
    this.#buffer = isStateful ? new MessageBuffer((message) => this.control(message)) : null;
    this.#outbox = new Outbox(options.maxUnsent, this.#buffer);
  }

  // The socket.

  attach(socket) {
    this.#outbox.attach(socket);
  }

  detach() {
    this.#outbox.detach();
  }

  /** Go on with `socket`, where the one before may have lost messages. */
  resume(socket) {
    this.#outbox.attach(socket);
    this.control({ type: Type.SEQUENCE, sequenceId: this.#buffer.first });
    for (const text of this.#buffer.texts) this.#outbox.control(text);
    this.#outbox.flush();
  }

  get sentAt() {
    return this.#outbox.sentAt;
  }

  /** Send a message that is neither counted nor kept, unless there is no socket. */
  control(message) {
    this.#outbox.control(written(message));
  }

  /** Count a message of the server. Return whether it has not been here before. */
  isNew({ type }, record) {
    return !this.#buffer || !COUNTED.has(type) || this.#buffer.receive(byteSize(record));
  }

  acknowledged(id) {
    this.#buffer?.acknowledged(id);
    this.#outbox.flush();
  }

  /** Count from `id` on. Return false if messages are missing before it. */
  restart(id) {
    return this.#buffer?.restart(id) ?? true;
  }

  /** End everything that is under way with `error`. */
  end(error) {
    const lost = (what) =>
      new HubError(`${what}. ${error?.message ?? error}`, "lost", { cause: error });
    for (const upload of this.#uploads) upload.stop();
    for (const { target, sink } of this.#calls.values()) {
      sink.end(lost(`'${target}' has no answer, and may have run or not`));
    }
    this.#outbox.end(lost("The message was not sent"));
    this.#buffer?.end();
  }

  // Calls of the page.

  invoke(target, args) {
    return new Promise((resolve, reject) => {
      const end = (error, result) => (error ? reject(error) : resolve(result));
      this.#call(Type.INVOCATION, this.#newId(), target, args, { receive() {}, end });
    });
  }

  send(target, args) {
    return this.#call(Type.INVOCATION, undefined, target, args, null);
  }

  /** Start a stream whose items and end `sink` gets. Return the function that cancels it. */
  stream(sink, target, args) {
    const invocationId = this.#newId();
    this.#call(Type.STREAM_INVOCATION, invocationId, target, args, sink);
    return () => {
      this.#take(invocationId);
      this.#push({ type: Type.CANCEL_INVOCATION, invocationId }).catch(ignore);
    };
  }

  /** Return a promise that is resolved when the call has left the queue. */
  #call(type, invocationId, target, args, sink) {
    this.#checkRoom(target);
    const sources = args.filter(isUpload);
    const streamIds = sources.map(() => this.#newId());
    const text = writtenCall({
      type,
      invocationId,
      target,
      arguments: args.filter((each) => !isUpload(each)),
      streamIds: sources.length > 0 ? streamIds : undefined,
    });
    const sent = this.#outbox.push(text);
    const uploads = sources.map((source, at) => this.#upload(streamIds[at], source));
    if (sink) {
      this.#calls.set(invocationId, { target, sink, uploads });
      // The end of the session ends the call as well.
      sent.catch(ignore);
    }
    return sent;
  }

  #checkRoom(target) {
    const { maxInvocations, maxQueue } = this.#options;
    if (this.#calls.size + this.#uploads.size >= maxInvocations) {
      throw new HubError(
        `'${target}' was not sent: ${maxInvocations} calls are under way (maxInvocations).`,
        "limit",
      );
    }
    if (this.#outbox.isFull(maxQueue)) {
      throw new HubError(
        `'${target}' was not sent: ${maxQueue} messages wait to be sent (maxQueue).`,
        "limit",
      );
    }
  }

  #newId() {
    return String(this.#nextId++);
  }

  #push(message) {
    return this.#outbox.push(written(message));
  }

  receiveItem({ invocationId, item }) {
    this.#calls.get(invocationId)?.sink.receive(item);
  }

  complete({ invocationId, result, error }) {
    this.#take(invocationId)?.sink.end(error ? new HubError(error, "server") : undefined, result);
  }

  /** Forget a call. The method is over, so nobody reads its uploads. */
  #take(id) {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    for (const upload of call?.uploads ?? []) upload.stop();
    return call;
  }

  // Uploads.

  #upload(id, source) {
    const upload = new Upload(source);
    this.#uploads.add(upload);
    this.#sendItems(id, upload);
    return upload;
  }

  /** Send the items, each when the one before has left the queue, and then the end. */
  async #sendItems(invocationId, upload) {
    let error;
    try {
      for await (const item of upload) {
        if (upload.isOver) break;
        await this.#outbox.push(writtenItem(invocationId, item));
      }
    } catch (reason) {
      error = reason?.message || String(reason);
    }
    this.#uploads.delete(upload);
    if (upload.isOver) return;
    upload.isOver = true;
    this.#push(completion(invocationId, { error })).catch(ignore);
  }

  // Calls of the server that want a result.

  /** Answer the invocation `id` with what `outcomeOf` promises: a result or an error. */
  async answer(id, outcomeOf) {
    if (this.#answers >= this.#options.maxInvocations) {
      const error = "Client has too many invocations without a result.";
      this.#push(completion(id, { error })).catch(ignore);
      return;
    }
    this.#answers += 1;
    let text;
    try {
      text = written(completion(id, await outcomeOf()));
    } catch (error) {
      text = written(completion(id, { error: String(error) }));
    }
    this.#answers -= 1;
    this.#outbox.push(text).catch(ignore);
  }
}

/** Whole messages on their way to the socket, in order. They wait while too much is unsent. */
class Outbox {
  #maxUnsent;
  #buffer;
  #socket = null;
  #waiting = [];
  #timer;
  sentAt = -Infinity;

  constructor(maxUnsent, buffer) {
    this.#maxUnsent = maxUnsent;
    this.#buffer = buffer;
  }

  attach(socket) {
    this.#socket = socket;
  }

  detach() {
    this.#socket = null;
  }

  /** Send at once, unless there is no socket. */
  control(text) {
    this.sentAt = performance.now();
    if (this.#socket?.readyState === ReliableWebSocket.OPEN) this.#socket.send(text);
  }

  isFull(maxQueue) {
    return !this.#hasRoom() && this.#waiting.length >= maxQueue;
  }

  /** Send or queue a message. The promise is resolved when it has left the queue. */
  push(text) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ text, resolve, reject });
      this.flush();
    });
  }

  /** Send what waits, as far as there is room. */
  flush() {
    while (this.#waiting.length > 0 && this.#hasRoom()) {
      const { text, resolve } = this.#waiting.shift();
      this.#buffer?.keep(text);
      this.control(text);
      resolve();
    }
    // Browsers do not tell when they have sent something.
    if (this.#waiting.length > 0 && this.#socket && !this.#buffer?.isFull) {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.flush();
      }, UNSENT_TICK);
    }
  }

  /** Drop what waits. */
  end(error) {
    this.#socket = null;
    clearTimeout(this.#timer);
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }

  #hasRoom() {
    if (this.#buffer?.isFull) return false;
    if (this.#socket?.readyState !== ReliableWebSocket.OPEN) return this.#buffer !== null;
    return this.#socket.bufferedAmount < this.#maxUnsent;
  }
}

/** What a stateful reconnect needs: the messages that the server has not acknowledged, and two counts. */
class MessageBuffer {
  #send;
  #kept = [];
  #size = 0; // in bytes
  #lastSent = 0;
  #next = 1; // the number of the next message of the server
  #latest = 0; // the highest number of a message of the server
  #unacknowledged = 0; // bytes
  #timer;

  constructor(send) {
    this.#send = send;
  }

  get isFull() {
    return this.#size >= BUFFER_SIZE;
  }

  /** The number of the first message that a resumed connection repeats, or will send. */
  get first() {
    return this.#lastSent - this.#kept.length + 1;
  }

  get texts() {
    return this.#kept.map(({ text }) => text);
  }

  keep(text) {
    const size = byteSize(text);
    this.#kept.push({ text, size });
    this.#size += size;
    this.#lastSent += 1;
  }

  acknowledged(id) {
    const count = Math.max(id - this.first + 1, 0);
    for (const { size } of this.#kept.splice(0, count)) this.#size -= size;
  }

  /** Count a message of the server. Return whether it has not been here before. */
  receive(size) {
    const number = this.#next++;
    const isNew = number > this.#latest;
    if (isNew) this.#latest = number;
    this.#unacknowledged += size;
    if (this.#unacknowledged >= ACK_SIZE) {
      this.#acknowledge();
    } else {
      this.#acknowledgeSoon();
    }
    return isNew;
  }

  /** Count from `id` on. Return false if messages are missing before it. */
  restart(id) {
    if (id > this.#latest + 1) return false;
    this.#next = id;
    // What is repeated was never acknowledged.
    if (id <= this.#latest) this.#acknowledgeSoon();
    return true;
  }

  end() {
    clearTimeout(this.#timer);
  }

  #acknowledgeSoon() {
    this.#timer ??= setTimeout(() => this.#acknowledge(), ACK_DELAY);
  }

  #acknowledge() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#unacknowledged = 0;
    this.#send({ type: Type.ACK, sequenceId: this.#latest });
  }
}

/** An argument whose items follow its invocation. stop() ends it before its time. */
class Upload {
  #source;
  #iterator = null;
  isOver = false;

  constructor(source) {
    this.#source = source;
  }

  [Symbol.asyncIterator]() {
    this.#iterator = this.#source[Symbol.asyncIterator]();
    return this.#iterator;
  }

  stop() {
    if (this.isOver) return;
    this.isOver = true;
    answer(() => this.#iterator?.return?.()).catch(report);
  }
}

/**
 * Return the items of a stream, for one loop.
 *
 * `open` is called when the loop begins, with what takes the items and the end, and returns a function
 * that cancels. The stream fails when `most` items wait although the loop has had its turn to read.
 */
export function streamOf(open, most) {
  const items = [];
  const readers = [];
  let cancel = null;
  let isOver = false;
  let failure = null;
  let isBurst = false; // items have come in this turn of the event loop

  const end = (error) => {
    isOver = true;
    failure = error ?? null;
    for (const { resolve } of readers.splice(0)) resolve(next());
  };

  const sink = {
    receive(item) {
      if (readers.length > 0) {
        readers.shift().resolve({ done: false, value: item });
      } else if (isBurst || items.length < most) {
        items.push(item);
      } else {
        cancel();
        end(new HubError(`More than ${most} items wait to be read (maxStreamItems).`, "limit"));
        return;
      }
      if (isBurst) return;
      // Frames hold many items, and the loop reads only after the last one.
      isBurst = true;
      queueMicrotask(() => (isBurst = false));
    },
    end,
  };

  async function next() {
    if (!cancel && !isOver) {
      try {
        cancel = open(sink);
      } catch (error) {
        end(error);
      }
    }
    if (items.length > 0) return { done: false, value: items.shift() };
    if (failure !== null) {
      const error = failure;
      failure = null;
      throw error;
    }
    if (isOver) return { done: true, value: undefined };
    return new Promise((resolve) => readers.push({ resolve }));
  }

  return {
    next,
    async return(value) {
      if (cancel && !isOver) cancel();
      items.length = 0;
      end();
      return { done: true, value };
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

function isUpload(value) {
  return typeof value?.[Symbol.asyncIterator] === "function";
}

/** Report an exception of the page's own code, as browsers do for listeners. */
export function report(error) {
  if (globalThis.reportError) reportError(error);
  else console.error(error);
}

function ignore() {}
