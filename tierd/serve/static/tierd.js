"use strict";
// Keeps what is shown up to date: the server says when something changed, and each part is then asked for again. The
// server escapes everything in it; the policy of the page forbids every script but this file.
(() => {
  const link = document.getElementById("link");
  const show = (text, isDown) => {
    if (link.textContent !== text) link.textContent = text;
    link.classList.toggle("down", isDown);
  };

  const isBusy = (part) => {
    const selected = getSelection();
    // Somebody is marking text to copy it, or fills in a field: do not take it away.
    const isMarked = selected && !selected.isCollapsed && part.contains(selected.anchorNode);
    return isMarked || (part.contains(document.activeElement) && /INPUT|SELECT/.test(document.activeElement.tagName));
  };

  const refresh = async (part) => {
    if (isBusy(part)) return;
    const answer = await fetch(new URL(part.dataset.live, location.origin), { signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").body;
    if (isBusy(part)) return;
    const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const inner = fresh.querySelector("[data-live]");
    part.replaceChildren(...(inner || fresh).childNodes);
    if (focused) part.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  };

  let isRunning = false;
  let isStale = false;
  const refreshAll = async () => {
    isStale = true;
    if (isRunning || document.hidden) return;
    isRunning = true;
    try {
      while (isStale) {
        isStale = false;
        await Promise.all([...document.querySelectorAll("[data-live]")].map(refresh));
      }
      show("live", false);
    } catch {
      show("no answer from the daemon", true);
    } finally {
      isRunning = false;
    }
  };

  let source;
  const connect = () => {
    source = new EventSource("/page/changes");
    source.addEventListener("change", refreshAll);
    source.addEventListener("error", () => {
      show("no answer from the daemon", true);
      // The browser tries again by itself, but not after an answer that was an error.
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
    });
  };
  if (document.querySelector("[data-live]")) connect();
  document.addEventListener("visibilitychange", refreshAll);
  addEventListener("pagehide", () => source?.close());
})();
