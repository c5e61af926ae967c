// The page at /hub: one connection to the hub, which comes back when it is lost, and what it carries.
// Whatever comes from the server gets into the page as text, never as HTML.

import {
  byId,
  byteSize,
  filled,
  inSeconds,
  onSubmit,
  sendOnEnter,
  showError,
} from "/static/ws_support/demo_page.js";
import { RoundTrips } from "/static/ws_support/demo_plot.js";

const { HttpTransportType, HubConnectionBuilder, HubConnectionState, LogLevel, Subject } =
  window.signalR;

byId("scriptNotice").remove();

const HUB = "/chat";

const MIN_DELAY = 1_000; // all in milliseconds
const MAX_DELAY = 10_000;

const MAX_LINES = 200;
const MAX_FILE_SIZE = 2 ** 20;
const MAX_MESSAGE_SIZE = 30_000; // With what is around it, a hub takes 32 KiB.
const LINES_IN_A_ROW = 100;

const NO_CONNECTION = "Nothing was sent: there is no connection.";

const TIME_OF_DAY = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

const chatLines = byId("lines");

/** Add a line to the chat: one of the `<template>`s. */
function addLine(template, texts, time = new Date()) {
  const line = filled(template, { ...texts, time: TIME_OF_DAY.format(time) });
  line.querySelector("time").dateTime = time.toISOString();
  chatLines.append(line);
  if (chatLines.childElementCount > MAX_LINES) chatLines.firstElementChild.remove();
}

function addEvent(text, time) {
  addLine("eventLine", { text }, time);
}

/** The connection of the page. Another one takes its place when the menu is used. */
class Connection {
  #hub = null; // null while the page wants no connection
  #lostAt = null;
  #onOpen;

  /** `onOpen` is called for each connection: the first one, and each one after a loss. */
  constructor(onOpen) {
    this.#onOpen = onOpen;
    onSubmit("connectionForm", () => (this.#hub ? this.close() : this.open()));
    byId("transport").addEventListener("change", () => this.open());
  }

  /** What can be invoked, or null. */
  get hub() {
    return this.#hub?.state === HubConnectionState.Connected ? this.#hub : null;
  }

  async open() {
    const before = this.#hub;
    const hub = (this.#hub = this.#build());
    byId("connectionButton").textContent = "Disconnect";
    this.#show("connecting", "Connecting...");
    await before?.stop();
    for (let attempt = 0; this.#hub === hub; attempt++) {
      try {
        await hub.start();
        await this.#opened(hub);
        return;
      } catch {
        if (this.#hub !== hub) return;
        // One sentence, however often it fails: each new one is read aloud.
        this.#show("reconnecting", "Not open, trying again...");
        await new Promise((resolve) => setTimeout(resolve, delayBefore(attempt)));
      }
    }
  }

  async close() {
    const hub = this.#hub;
    this.#hub = null;
    this.#closed("ready", "Disconnected");
    await hub.stop();
  }

  #build() {
    const transport = HttpTransportType[byId("transport").value];
    const hub = new HubConnectionBuilder()
      .withUrl(HUB, { transport })
      .withAutomaticReconnect({
        nextRetryDelayInMilliseconds: ({ previousRetryCount }) => delayBefore(previousRetryCount),
      })
      .configureLogging(LogLevel.None) // The page says it all.
      .build();
    hub.onreconnecting(() => {
      if (this.#hub !== hub) return;
      this.#lostAt = performance.now();
      this.#show("reconnecting", "Lost, reconnecting...");
      addEvent("Connection lost");
    });
    hub.onreconnected(() => this.#opened(hub));
    hub.onclose((error) => {
      if (this.#hub !== hub) return;
      this.#hub = null;
      this.#closed("bad", "Closed by the server");
      addEvent(error ? `Closed: ${error.message}` : "Closed by the server");
    });
    hub.on("Came", (name, time) => addEvent(`${name} has come`, new Date(time)));
    hub.on("Went", (name, time) => addEvent(`${name} has gone`, new Date(time)));
    hub.on("Said", (name, text, time) => addLine("saidLine", { name, text }, new Date(time)));
    return hub;
  }

  async #opened(hub) {
    const { process, transport } = await hub.invoke("Describe");
    if (this.#hub !== hub) return;
    const inUse = document.querySelector(`#transport [value=${transport}]`).textContent;
    this.#show("open", "Open");
    byId("transportInUse").textContent = inUse;
    byId("process").textContent = process;
    byId("connectionId").textContent = hub.connectionId;
    if (this.#lostAt !== null) {
      const downtime = inSeconds(performance.now() - this.#lostAt);
      addEvent(`Connected again after ${downtime}, to process ${process}`);
      this.#lostAt = null;
    }
    this.#onOpen();
  }

  #closed(state, words) {
    this.#show(state, words);
    this.#lostAt = null;
    byId("connectionButton").textContent = "Connect";
  }

  #show(state, words) {
    const label = byId("connectionState");
    label.dataset.state = state;
    label.textContent = words;
    for (const id of ["transportInUse", "process", "connectionId"]) byId(id).textContent = "-";
  }
}

/** The name, and the messages of this page. */
class Chat {
  #connection;
  #name = null; // null while the page only reads

  constructor(connection) {
    this.#connection = connection;
    onSubmit("nameForm", () => (this.#name === null ? this.#join() : this.#leave()));
    onSubmit("textForm", () => this.#say());
    sendOnEnter(byId("text"));
  }

  /** Join again: for the hub, the page is somebody new. */
  again() {
    if (this.#name !== null) this.#invoke("Join", this.#name);
  }

  async #join() {
    const name = byId("name").value;
    const error = await this.#invoke("Join", name);
    showError(byId("name"), error);
    if (!error) this.#show(name);
    byId(error ? "name" : "text").focus();
  }

  async #leave() {
    this.#show(null);
    byId("name").focus();
    await this.#invoke("Leave");
  }

  #show(name) {
    this.#name = name;
    byId("name").readOnly = name !== null;
    byId("joinButton").textContent = name === null ? "Join" : "Leave";
  }

  async #say() {
    const field = byId("text");
    const button = byId("textButton");
    // Before the button is disabled: with it the focus would be lost.
    field.focus();
    field.readOnly = button.disabled = true;
    const error = await this.#invoke("Say", field.value);
    field.readOnly = button.disabled = false;
    showError(field, error);
    if (!error) field.value = "";
  }

  /** Invoke a method of the hub. Return why that was not possible, or an empty string. */
  async #invoke(method, ...texts) {
    const { hub } = this.#connection;
    if (!hub) return NO_CONNECTION;
    if (byteSize(texts.join()) > MAX_MESSAGE_SIZE) return "That is too long for a message.";
    try {
      await hub.invoke(method, ...texts);
      return "";
    } catch (error) {
      return reasonOf(error);
    }
  }
}

/** The stream from the server, which goes on after a loss. */
class Delays {
  #connection;
  #plot = new RoundTrips();
  #isWanted = false;
  #subscription = null;

  constructor(connection) {
    this.#connection = connection;
    onSubmit("streamForm", () => (this.#isWanted ? this.#stop() : this.#start()));
    byId("interval").addEventListener("change", () => this.again());
  }

  /** Ask for the stream again, if the page has one. */
  again() {
    if (this.#isWanted) this.#start();
  }

  #start() {
    this.#stop();
    const { hub } = this.#connection;
    byId("streamError").textContent = hub ? "" : NO_CONNECTION;
    if (!hub) return;
    this.#isWanted = true;
    byId("streamButton").textContent = "Stop";
    this.#subscription = hub.stream("Delays", Number(byId("interval").value)).subscribe({
      next: (delay) => this.#plot.add(delay),
      complete: () => this.#stop(),
      error: async (error) => {
        await null; // The client tells streams of a loss before it says so of the connection.
        if (!this.#connection.hub) return; // The stream comes back with it.
        this.#stop();
        byId("streamError").textContent = reasonOf(error);
      },
    });
  }

  #stop() {
    this.#isWanted = false;
    byId("streamButton").textContent = "Start";
    this.#subscription?.dispose();
    this.#subscription = null;
  }
}

/** The stream to the server, and the results that come back meanwhile. */
class Upload {
  #connection;
  #lines = null; // the Subject of the upload that is under way

  constructor(connection) {
    this.#connection = connection;
    onSubmit("uploadForm", () => (this.#lines ? this.#lines.error("Stopped by the page.") : this.#start()));
    byId("file").addEventListener("change", () => this.#read(byId("file").files[0]));
  }

  async #read(file) {
    if (!file) return;
    const isTooLarge = file.size > MAX_FILE_SIZE;
    showError(byId("file"), isTooLarge ? "The file has more than 1 MiB." : "");
    if (!isTooLarge) byId("numbers").value = await file.text();
  }

  async #start() {
    const error = await this.#send(byId("numbers").value.trimEnd().split(/\r?\n/));
    showError(byId("numbers"), error);
  }

  /** Send the lines. Return why that was not possible, or an empty string. */
  async #send(lines) {
    const { hub } = this.#connection;
    if (!hub) return NO_CONNECTION;
    const most = Number(byId("numbers").dataset.maxLine);
    const tooLong = lines.findIndex((line) => line.length > most);
    if (tooLong !== -1) return `Line ${withCommas(tooLong + 1)} has more than ${withCommas(most)} characters.`;
    this.#lines = new Subject();
    byId("uploadButton").textContent = "Stop";
    let isOver = false;
    const results = new Promise((resolve, reject) => {
      hub.stream("AddUp", this.#lines).subscribe({
        next: showSummary,
        complete: resolve,
        error: reject,
      });
    }).finally(() => (isOver = true));
    try {
      await Promise.race([results, this.#feed(lines, () => isOver)]);
      await results;
      return "";
    } catch (error) {
      return reasonOf(error);
    } finally {
      this.#lines = null;
      byId("uploadButton").textContent = "Send Lines";
    }
  }

  async #feed(lines, isOver) {
    for (const [at, line] of lines.entries()) {
      if (isOver()) return;
      this.#lines.next(line);
      // Others want to have their turn: what is drawn, and the button.
      if (at % LINES_IN_A_ROW === 0) await new Promise((resolve) => setTimeout(resolve));
    }
    if (!isOver()) this.#lines.complete();
  }
}

function showSummary({ lines, characters, numbers, sum }) {
  byId("lineCount").textContent = withCommas(lines);
  byId("characterCount").textContent = withCommas(characters);
  byId("numberCount").textContent = withCommas(numbers);
  byId("sum").textContent = withCommas(sum);
}

function withCommas(number) {
  return number.toLocaleString("en");
}

/** Return the milliseconds to wait before an attempt: random, so that not all pages come at once. */
function delayBefore(attempt) {
  return Math.random() * Math.min(MIN_DELAY * 2 ** attempt, MAX_DELAY);
}

/** Return the text of the hub's HubException, or else what the client says. */
function reasonOf({ message }) {
  return message.replace(/^.*? HubException: /s, "");
}

const connection = new Connection(() => {
  chat.again();
  delays.again();
});
const chat = new Chat(connection);
const delays = new Delays(connection);
new Upload(connection);
connection.open();
