// Arrow keys go from cell to cell; the Tab key comes to one cell and then leaves the grid. The page reads without this.
"use strict";

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function links(table) {
  return [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.querySelector("a")));
}

function target(event, rows, y, x) {
  if (event.key in STEPS) return [y + STEPS[event.key][0], x + STEPS[event.key][1]];
  if (event.key === "Home") return [event.ctrlKey ? 0 : y, 0];
  if (event.key === "End") return [event.ctrlKey ? rows.length - 1 : y, rows[y].length - 1];
  return null;
}

function take(all, link) {
  for (const each of all.flat()) each.tabIndex = -1;
  link.tabIndex = 0;
}

function rove(table) {
  const all = links(table);
  take(all, all[0][1] ?? all[0][0]);
  table.addEventListener("focusin", (event) => all.flat().includes(event.target) && take(all, event.target));
  table.addEventListener("keydown", (event) => {
    const y = all.findIndex((row) => row.includes(event.target));
    if (y < 0 || event.altKey || event.metaKey) return;
    const to = target(event, all, y, all[y].indexOf(event.target));
    const link = to && all[to[0]]?.[to[1]];
    if (!to) return;
    event.preventDefault();
    if (link) {
      link.focus({ preventScroll: true });
      reveal(table, link);
    }
  });
  for (const hint of table.querySelectorAll("[data-keys]")) hint.hidden = false;
}

// A cell must not hide behind what sticks to the edges.
function reveal(table, link) {
  const sheet = table.closest(".sheet");
  const [cell, edge] = [link.getBoundingClientRect(), sheet.getBoundingClientRect()];
  const [head, side] = [table.tHead.offsetHeight, table.tBodies[0].rows[0].cells[0].offsetWidth];
  link.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (cell.top < edge.top + head) sheet.scrollTop -= edge.top + head - cell.top;
  if (cell.left < edge.left + side && link.closest("td")) sheet.scrollLeft -= edge.left + side - cell.left;
}

for (const table of document.querySelectorAll("[data-grid]")) rove(table);
