// While a run goes on, its totals are read again every few seconds. The page says the same without this.
"use strict";

const PAUSE = 3000;

async function read() {
  const live = document.querySelector("#live[data-live]");
  if (!live || document.hidden) return;
  const page = await fetch(location.href, { cache: "no-store" });
  if (!page.ok) return;
  const found = new DOMParser().parseFromString(await page.text(), "text/html").querySelector("#live");
  if (found && !live.contains(document.activeElement)) live.replaceWith(document.adoptNode(found));
}

setInterval(() => read().catch(() => {}), PAUSE);
