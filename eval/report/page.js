"use strict";
const viewer = document.getElementById("viewer");
if (viewer) {
  const image = document.getElementById("viewer-image");
  const zoom = document.getElementById("viewer-zoom");
  const stage = viewer.querySelector(".stage");
  const setActual = (on) => {
    stage.classList.toggle("actual", on);
    zoom.textContent = on ? "Fit to window" : "Actual size";
  };
  for (const button of document.querySelectorAll(".enlarge")) {
    button.addEventListener("click", () => {
      const small = button.querySelector("img");
      image.src = small.src;
      image.alt = small.alt;
      document.getElementById("viewer-title").textContent = button.closest("figure").querySelector("strong").textContent;
      setActual(small.naturalWidth > 1.3 * innerWidth); // on a phone, fitting would enlarge nothing
      viewer.showModal();
    });
  }
  zoom.addEventListener("click", () => setActual(!stage.classList.contains("actual")));
  image.addEventListener("click", () => setActual(!stage.classList.contains("actual")));
  document.getElementById("viewer-close").addEventListener("click", () => viewer.close());
}
for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column];
      return cell.dataset.v === undefined ? cell.textContent : cell.dataset.v === "" ? NaN : Number(cell.dataset.v);
    };
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (typeof x === "string") return x.localeCompare(y, "en", { numeric: true });
      return Number.isNaN(x) ? 1 : Number.isNaN(y) ? -1 : x - y;
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => down ? order(b, a) : order(a, b));
    table.tBodies[0].append(...rows);
    document.getElementById("sorted").textContent = `Sorted by ${head.textContent}, ${down ? "descending" : "ascending"}`;
  }));
}
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
