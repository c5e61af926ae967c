// The page at /room: a topic that the page follows, with its history and who is there.

import { byId, inSeconds, onSubmit, sendOnEnter, showError } from "/static/ws_support/demo_page.js";
import { Topics } from "/static/ws_support/topics.js";
import { canShare } from "/static/ws_support/topics_shared.js";
import { ChatLog, missedNote, showPeople } from "/static/example_project/room_chat.js";

byId("scriptNotice").remove();

const CUT = 10_000; // all in milliseconds
const MIN_DELAY = 500;
const MAX_DELAY = 5_000;
const HISTORY_RETRY = 2_000;

const { topic, connections, maxName, maxText } = byId("room").dataset;

const REASONS = {
  state: "Nothing was sent: there is no connection.",
  lost: "The connection was lost. The message is in the chat if it was sent.",
  forbidden: "The server refuses this message.",
  limit: "Those are too many messages at a time. Try again in a few seconds.",
  unavailable: "Not sent, or not to everybody: Redis is away.",
};

/** What the tabs of this browser have in common. A browser may have no storage for it. */
const settings = {
  get(key) {
    try {
      return localStorage.getItem(`ws_support-room:${key}`) ?? "";
    } catch {
      return "";
    }
  },

  set(key, value) {
    try {
      localStorage.setItem(`ws_support-room:${key}`, value);
    } catch {
      // The next page asks again.
    }
  },

  /** Call `handler` when another tab has set the value. */
  onChange(key, handler) {
    addEventListener("storage", (event) => {
      if (event.key === `ws_support-room:${key}`) handler(event.newValue ?? "");
    });
  },
};

/** The id by which other pages know the tabs of one browser. Nobody has a login here. */
function browserId() {
  const known = settings.get("browser");
  if (known) return known;
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  const id = [...bytes].map((each) => each.toString(16).padStart(2, "0")).join("");
  settings.set("browser", id);
  return id;
}

/** The connection of the page, and its state. Another one takes its place for another `shared`. */
class Connection {
  #topics;
  #lostAt = null;
  #cut = null; // while the page itself has cut it: the timer of the countdown, and the promise of its end
  #onNew;

  /** `onNew` is called with each new `Topics`. */
  constructor(onNew) {
    this.#onNew = onNew;
    const shared = byId("shared");
    shared.disabled = !canShare();
    if (shared.disabled) byId("sharedHint").textContent = "Over HTTPS, tabs can share one connection.";
    shared.checked = !shared.disabled && settings.get("shared") === "true";
    shared.addEventListener("change", () => {
      settings.set("shared", String(shared.checked));
      this.open();
    });
    settings.onChange("shared", (value) => {
      shared.checked = value === "true";
      this.open();
    });
    byId("connectionButton").addEventListener("click", () => {
      if (byId("connectionState").dataset.state === "open") this.#cutConnection();
      else this.#connect();
    });
  }

  open() {
    this.#topics?.stop();
    this.#endCut();
    this.#show("connecting", "Connecting...");
    const options = { minDelay: MIN_DELAY, maxDelay: MAX_DELAY, maxFirstAttempts: Infinity };
    const topics = new Topics(null, { ...options, shared: byId("shared").checked });
    this.#topics = topics;
    const on = (type, handler) =>
      topics.addEventListener(type, (event) => topics === this.#topics && handler(event));
    on("connected", () => this.#show("open", "Open"));
    on("reconnected", () => this.#show("open", "Open"));
    on("reconnecting", ({ attempt }) => {
      // One sentence for a loss, however often the way back fails: each new one is read aloud.
      if (attempt === 1) this.#lose("reconnecting", "Lost, reconnecting...");
    });
    on("close", ({ error }) => {
      if (!this.#cut) this.#lose("bad", error ? `Closed: ${error.message}` : "Closed by the server");
    });
    this.#onNew(topics);
  }

  /** Return how long the connection was lost, as text, once; null if it was not. */
  takeDowntime() {
    if (this.#lostAt === null) return null;
    const downtime = performance.now() - this.#lostAt;
    this.#lostAt = null;
    return inSeconds(downtime);
  }

  #cutConnection() {
    const end = performance.now() + CUT;
    const tick = () => {
      const left = Math.ceil((end - performance.now()) / 1000);
      if (left > 0) byId("countdown").textContent = `(${left})`;
      else this.#connect();
    };
    this.#cut = { timer: setInterval(tick, 250), stopped: this.#topics.stop() };
    this.#lose("reconnecting", `Cut for ${CUT / 1000} s`);
    tick();
  }

  async #connect() {
    const topics = this.#topics;
    this.#show("connecting", "Connecting...");
    clearInterval(this.#cut?.timer);
    await this.#cut?.stopped;
    if (topics !== this.#topics) return;
    this.#endCut();
    topics.reconnect();
  }

  #endCut() {
    clearInterval(this.#cut?.timer);
    this.#cut = null;
  }

  #lose(state, words) {
    this.#lostAt ??= performance.now();
    this.#show(state, words);
    for (const id of ["process", "connections"]) byId(id).textContent = "-";
  }

  #show(state, words) {
    const label = byId("connectionState");
    label.dataset.state = state;
    label.textContent = words;
    byId("connectionWords").textContent = state === "open" ? `Cut for ${CUT / 1000} s` : "Connect Now";
    byId("countdown").textContent = "";
  }
}

/** The chat: what it has missed, what is said, and who is there. */
class Room {
  #browser = browserId();
  #name = settings.get("name");
  #log = new ChatLog(this.#browser);
  #connection;
  #topics;
  #room;
  #hasHistory = false;
  #historyStart = null; // the line behind which the history of the server begins; null: the first one

  constructor() {
    onSubmit("nameForm", () => this.#join());
    onSubmit("textForm", () => this.#say());
    sendOnEnter(byId("text"));
    byId("renameButton").addEventListener("click", () => {
      this.#showForm("nameForm");
      byId("name").select();
    });
    settings.onChange("name", (name) => this.#take(name));
    this.#showName();
    this.#connection = new Connection((topics) => {
      this.#topics = topics;
      this.#follow();
      followConnections(topics);
    });
    this.#connection.open();
  }

  // The topic

  #follow() {
    const presence = { browser: this.#browser, name: this.#name };
    const room = (this.#room = this.#topics.subscribe(topic, { since: "stored", presence }));
    const on = (type, handler) =>
      room.addEventListener(type, (event) => {
        if (room !== this.#room) return;
        handler(event);
        byId("position").textContent = room.position ?? "-";
      });
    on("subscribed", () => this.#begin());
    on("recovered", ({ missed }) => {
      const note = missedNote(missed, this.#connection.takeDowntime());
      if (note) this.#log.note(note);
      this.#begin();
    });
    on("gap", () => {
      this.#connection.takeDowntime();
      this.#hasHistory = false;
      this.#historyStart = this.#log.note("Messages may be missing here: the server has not kept them");
      this.#historyStart.classList.add("bad");
      this.#begin();
    });
    on("message", (message) => this.#log.add(message));
    on("presence", ({ members }) => showPeople(members, this.#browser));
    on("error", ({ error, code, willRetry }) => {
      const trying = willRetry ? " Trying again..." : "";
      byId("chatError").textContent =
        code === "unavailable" ? `Redis does not answer.${trying}` : `${error.message}${trying}`;
    });
  }

  #begin() {
    byId("chatError").textContent = "";
    if (!this.#hasHistory) this.#load(this.#room);
  }

  /** Show what the history has, among what has come already. */
  async #load(room) {
    this.#log.isBusy = true;
    try {
      const { messages } = await room.history();
      if (room !== this.#room) return;
      this.#log.merge(messages, this.#historyStart);
      this.#hasHistory = true;
    } catch ({ code }) {
      // After a loss, the next connection asks again.
      if (code === "unavailable") setTimeout(() => this.#load(room), HISTORY_RETRY);
    }
    this.#log.isBusy = false;
  }

  // The name

  #join() {
    const name = byId("name").value.trim().replace(/\s+/g, " ");
    const error = wrongLength(name, "name", maxName);
    showError(byId("name"), error);
    if (error) {
      byId("name").focus();
      return;
    }
    settings.set("name", name);
    this.#take(name);
    byId("text").focus();
  }

  #take(name) {
    const isNew = name !== this.#name;
    this.#name = name;
    this.#showName();
    if (!isNew) return;
    // Others learn of a name when the page subscribes.
    this.#room.unsubscribe();
    this.#hasHistory = false;
    this.#follow();
  }

  #showName() {
    byId("name").value = this.#name;
    byId("sender").textContent = this.#name;
    this.#showForm(this.#name ? "textForm" : "nameForm");
  }

  #showForm(id) {
    for (const each of ["nameForm", "textForm"]) byId(each).hidden = each !== id;
  }

  // Messages

  async #say() {
    const field = byId("text");
    const button = byId("textButton");
    // Before the button is disabled: with it the focus would be lost.
    field.focus();
    field.readOnly = button.disabled = true;
    const error = await this.#publish(field.value.trim());
    field.readOnly = button.disabled = false;
    showError(field, error);
    if (error) return;
    field.value = "";
    this.#log.showNewest();
  }

  /** Publish the text. Return why that was not possible, or an empty string. */
  async #publish(text) {
    const error = wrongLength(text, "message", maxText);
    if (error) return error;
    try {
      await this.#room.publish({ browser: this.#browser, name: this.#name, text, time: Date.now() });
      return "";
    } catch ({ code, message }) {
      return REASONS[code] ?? message;
    }
  }
}

/** Show how many connections the server has: it says so under a topic of its own. */
function followConnections(topics) {
  const following = topics.subscribe(connections, { snapshot: true });
  let here = null; // the process to which this page is connected
  const show = (each) => {
    byId("process").textContent = each.process;
    byId("connections").textContent = each.connections;
  };
  following.addEventListener("snapshot", ({ state }) => {
    here = state.process;
    show(state);
  });
  following.addEventListener("message", ({ data }) => {
    if (data.process === here) show(data);
  });
}

/** Return what is wrong with the length of a text, in characters as Python counts them. */
function wrongLength(text, what, most) {
  if (text === "") return `The ${what} is empty.`;
  const { length } = [...text];
  return length > most ? `The ${what} has ${length} characters, and ${most} are the most.` : "";
}

new Room();
