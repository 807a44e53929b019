// Keeps what is marked `data-live` as it is on the server: every ten seconds, while somebody looks.
// It only ever reads (GET), says so (X-Live: such a look pulls nothing from the API), and leaves alone what a person
// is using: the part that holds the focus without an id to find it by, or a selection.
"use strict";

const EVERY = 10000;

function inUse(part) {
  const focused = document.activeElement;
  if (focused && focused !== document.body && part.contains(focused) && !focused.id) return true;
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed && part.contains(selection.anchorNode));
}

function replace(part, fresh) {
  if (part.innerHTML === fresh.innerHTML || inUse(part)) return;
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  const open = [...part.querySelectorAll("details[open][id]")].map((one) => one.id);
  part.replaceChildren(...fresh.childNodes);
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

async function look() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { "X-Live": "1" }, signal: AbortSignal.timeout(EVERY) });
    if (!answer.ok || answer.redirected) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = fresh.title;
    for (const part of document.querySelectorAll("[data-live][id]")) {
      const same = fresh.getElementById(part.id);
      if (same) replace(part, same);
    }
  } catch {
    // The daemon is away for a moment: the next look will tell.
  }
}

setInterval(look, EVERY);
document.addEventListener("visibilitychange", look);
