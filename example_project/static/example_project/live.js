// The page at /live: two sockets that come back when they are lost, and a form.
// Whatever comes from the server gets into the page as text, never as HTML.

byId("scriptNotice").remove();

const MAX_MESSAGES = 100;

const TIME_OF_DAY = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

/** Hands what arrives at `path` to `onMessage`, as JSON. Connects again for as long as it takes. */
class LiveSocket {
  #url;
  #name;
  #onMessage;

  constructor(path, name, onMessage) {
    this.#url = new URL(path, location.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#name = name;
    this.#onMessage = onMessage;
    this.#connect();
  }

  #connect() {
    const socket = new WebSocket(this.#url);
    let hasOpened = false;
    socket.addEventListener("open", () => {
      hasOpened = true;
      this.#show("open", "Open");
    });
    socket.addEventListener("message", ({ data }) => this.#onMessage(JSON.parse(data)));
    socket.addEventListener("close", ({ code }) => {
      this.#showLoss(hasOpened ? `Lost (${code}), reconnecting...` : "Not open, trying again...");
      // When a server ends, all pages lose their sockets at once. They come back one by one.
      setTimeout(() => this.#connect(), 1000 + 4000 * Math.random());
    });
  }

  /** One sentence for a loss, however often the way back fails: each new one is read aloud. */
  #showLoss(words) {
    if (this.#label.dataset.state === "lost") return;
    this.#show("lost", words);
    byId(`${this.#name}Process`).textContent = "-";
  }

  #show(state, words) {
    this.#label.dataset.state = state;
    this.#label.textContent = words;
  }

  get #label() {
    return byId(`${this.#name}State`);
  }
}

function showTick({ number, time, pid, sockets }) {
  byId("tickerProcess").textContent = pid;
  byId("tickNumber").textContent = number;
  byId("tickTime").textContent = TIME_OF_DAY.format(new Date(time));
  byId("tickSockets").textContent = sockets;
}

/** The first message says where the board is, and has no text. */
function showBoardMessage({ text, pid, time }) {
  if (text === undefined) {
    byId("boardProcess").textContent = pid;
    return;
  }
  const line = byId("message").content.cloneNode(true);
  line.querySelector("[data-field=text]").textContent = text;
  line.querySelector("[data-field=process]").textContent = pid;
  line.querySelector("[data-field=time]").textContent = TIME_OF_DAY.format(new Date(time));
  line.querySelector("[data-field=time]").dateTime = time;
  const messages = byId("messages");
  messages.prepend(line);
  if (messages.childElementCount > MAX_MESSAGES) messages.lastElementChild.remove();
}

/** Broadcast the text; why that was not possible, or an empty string. */
async function broadcast(form) {
  const body = new FormData(form);
  const response = await fetch(form.action, { method: "POST", body }).catch(() => null);
  if (!response) return "Nothing was sent: the server does not answer.";
  if (response.ok) return "";
  const isReason = response.headers.get("Content-Type").startsWith("text/plain");
  return isReason
    ? await response.text()
    : `The server refused it with ${response.status}. Reload the page, and try again.`;
}

byId("sendForm").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = byId("text");
  const button = byId("sendButton");
  // Before the button is disabled: with it the focus would be lost.
  field.focus();
  field.readOnly = button.disabled = true;
  const error = await broadcast(event.target);
  field.readOnly = button.disabled = false;
  byId("sendError").textContent = error;
  if (!error) field.value = "";
});

function byId(id) {
  return document.getElementById(id);
}

new LiveSocket("live/ticker", "ticker", showTick);
new LiveSocket("live/board", "board", showBoardMessage);
