"use strict";

const byId = (id) => document.getElementById(id);

function note(text) {
  const line = document.createElement("li");
  line.textContent = text;
  byId("log").append(line);
  line.scrollIntoView({ block: "nearest" });
}

const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
let sent = 0;

socket.addEventListener("open", () => {
  byId("state").textContent = "Connected";
  byId("send").disabled = false;
});
socket.addEventListener("message", (event) => {
  note(`← ${event.data}   (${(performance.now() - sent).toFixed(1)} ms)`);
});
socket.addEventListener("close", (event) => {
  byId("state").textContent = `Closed (${event.code})`;
  byId("send").disabled = true;
});
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value;
  if (socket.readyState !== WebSocket.OPEN) return;
  note(`→ ${text}`);
  sent = performance.now();
  socket.send(text);
});
