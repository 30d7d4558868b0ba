"use strict";
// Asks for the content again and again while the page is looked at. The server escapes everything in it; the policy of
// the page forbids every script but this file.
(() => {
  const every = 2000;
  const content = document.getElementById("content");
  const link = document.getElementById("link");

  const show = (text, isDown) => {
    link.textContent = text;
    link.classList.toggle("down", isDown);
  };

  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(new URL("/page", location.origin), { signal: AbortSignal.timeout(10000) });
      if (!answer.ok) throw new Error(String(answer.status));
      const selected = getSelection();
      // Somebody is marking text to copy it: do not take it away.
      if (selected && !selected.isCollapsed) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      content.replaceChildren(...fresh.body.childNodes);
      show("live", false);
    } catch {
      show("no answer from the daemon", true);
    }
  };

  const loop = async () => {
    await refresh();
    setTimeout(loop, every);
  };
  setTimeout(loop, every);
  document.addEventListener("visibilitychange", refresh);
})();
