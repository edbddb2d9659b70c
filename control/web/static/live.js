// Keeps a page live: an event of the region names what changed, and the parts of the page that show it are fetched
// again. The server renders them (one template each, for the first view and every later one), so this script knows no
// shape of any document. Without it, or without EventSource, the page is whole and refreshes by <noscript>.
"use strict";
(() => {
  const PAUSE_MS = 400; // at most one fetch of a part in this time, and one after the last event
  const parts = [...document.querySelectorAll("[data-part]")];
  const light = document.getElementById("live");
  if (!parts.length || !window.EventSource) return;

  const waiting = new Map(); // part -> "running", or "again" when an event came meanwhile

  async function refresh(part) {
    if (waiting.has(part)) {
      waiting.set(part, "again");
      return;
    }
    waiting.set(part, "running");
    try {
      const answer = await fetch("/parts/" + part.dataset.part, { credentials: "same-origin", redirect: "manual" });
      if (answer.status === 401) {
        location.assign("/login");
        return;
      }
      if (answer.ok) replace(part, await answer.text());
    } catch {
      show("off"); // the region is away; EventSource tells when it is back
    }
    setTimeout(() => {
      const again = waiting.get(part) === "again";
      waiting.delete(part);
      if (again) refresh(part);
    }, PAUSE_MS);
  }

  // What the reader has opened stays open, and focus stays where it was.
  function replace(part, html) {
    const open = new Set([...part.querySelectorAll("details[open]")].map((details) => details.id));
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.innerHTML = html;
    for (const details of part.querySelectorAll("details")) details.open ||= open.has(details.id);
    if (focused) document.getElementById(focused)?.focus();
  }

  function show(state) {
    light.dataset.state = state;
    light.textContent = state === "on" ? "live" : "reconnecting";
  }

  const events = new EventSource("/api/v1/events");
  events.onopen = () => {
    show("on");
    parts.forEach(refresh); // what happened while nobody listened
  };
  events.onerror = () => {
    show("off");
    // A refused stream (the session has ended) is closed for good; one fetch finds out and leads to the login page.
    if (events.readyState === EventSource.CLOSED) refresh(parts[0]);
  };
  for (const kind of ["sync", "images", "sources", "racks", "banner", "uploads"])
    events.addEventListener(kind, () => {
      for (const part of parts) if (part.dataset.on.split(" ").includes(kind)) refresh(part);
    });
})();
