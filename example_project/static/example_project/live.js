// The page at /live: two sockets that come back when they are lost, and a form.
// Whatever comes from the server gets into the page as text, never as HTML.

import { ReliableWebSocket } from "/static/ws_support/client.js";

byId("scriptNotice").remove();

const MAX_MESSAGES = 100;

const TIME_OF_DAY = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

/** Hands what arrives at `path` to `onMessage`, as JSON. */
function connect(path, name, onMessage) {
  const label = byId(`${name}State`);
  const show = (state, words) => {
    label.dataset.state = state;
    label.textContent = words;
  };
  const socket = new ReliableWebSocket(path);
  let hasOpened = false;
  socket.onopen = () => {
    hasOpened = true;
    show("open", "Open");
  };
  socket.onmessage = ({ data }) => onMessage(JSON.parse(data));
  socket.onreconnecting = ({ attempt, code }) => {
    // One sentence for a loss, however often the way back fails: each new one is read aloud.
    if (attempt > 1) return;
    show("reconnecting", hasOpened ? `Lost (${code}), reconnecting...` : "Not open, trying again...");
    byId(`${name}Process`).textContent = "-";
  };
  socket.onclose = ({ code }) => show("bad", `Closed (${code}). Reload the page to try again.`);
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

byId("text").addEventListener("keydown", (event) => {
  // With Shift it starts a new line; while an input method composes, it is its own.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  event.target.form.requestSubmit();
});

function byId(id) {
  return document.getElementById(id);
}

connect("live/ticker", "ticker", showTick);
connect("live/board", "board", showBoardMessage);
