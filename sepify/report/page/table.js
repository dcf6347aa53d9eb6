"use strict";
// The table of layers: sorting, filtering, and each layer's rank curve.
(() => {
  const table = document.getElementById("layers");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const {facts, draw, percent, macs, number} = window.sepify;

  const value = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return cell.textContent.trim();
  };

  function compare(a, b, column, sign) {
    const [x, y] = [value(a, column), value(b, column)];
    if (x === "" || y === "") return (x === "") - (y === "");  // what has no value comes last
    if (typeof x === "number" && typeof y === "number") return sign * (x - y);
    return sign * String(x).localeCompare(String(y), undefined, {numeric: true});
  }

  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    head.firstElementChild.addEventListener("click", () => {
      // numbers start with the largest, names with the first
      const first = head.classList.contains("n") || head.classList.contains("bars") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const direction = head.getAttribute("aria-sort") === first ? second : first;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      rows.sort((a, b) => compare(a, b, column, sign));
      for (const row of rows) {
        body.append(row);
        if (row.opened) body.append(row.opened);
      }
    });
  }

  const words = document.getElementById("layer-filter");
  const action = document.getElementById("layer-action");
  const count = document.getElementById("layer-count");

  function filter() {
    const wanted = words.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const text = row.cells[0].textContent + " " + row.cells[2].textContent;
      const fits = text.toLowerCase().includes(wanted) && (!action.value || row.dataset.action === action.value);
      row.hidden = !fits;
      if (row.opened) row.opened.hidden = !fits;
      shown += fits;
    }
    count.textContent = shown === rows.length ? `${shown} layers` : `${shown} of ${rows.length} layers`;
  }
  words.addEventListener("input", filter);
  action.addEventListener("change", filter);
  document.getElementById("layer-controls").addEventListener("submit", (event) => event.preventDefault());

  function element(tag, attributes, ...children) {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...children);
    return made;
  }

  function valuesOf(layer) {
    const heads = ["order, rank", "MACs", "kernel energy lost", "loss of the outputs"];
    const head = element("tr", {}, ...heads.map((text) => element("th", {scope: "col", textContent: text})));
    const lines = layer.curve.map(([order, rank, cost, lost, damage, measured]) =>
      element("tr", {}, ...[
        `${order}, ${rank}`, macs(cost), percent(lost),
        damage === null ? "\u2013" : `${number(damage)} (${measured ? "measured" : "estimated"})`,
      ].map((text) => element("td", {textContent: text}))));
    const made = element("table", {className: "small"}, element("thead", {}, head), element("tbody", {}, ...lines));
    return element("details", {}, element("summary", {textContent: "Values of this plot"}), made);
  }

  function open(row, button) {
    const layer = facts.layers[row.dataset.index];
    const chart = element("div", {className: "chart"});
    chart.dataset.chart = "rank";
    chart.layer = layer;
    chart.setAttribute("role", "img");
    const cheapest = layer.curve[0];
    chart.setAttribute("aria-label", `Plot of what each rank of ${layer.name} loses against its MACs. ${cheapest[0]} at rank ${cheapest[1]}: ${percent(cheapest[3])} of the kernel's energy lost. The table below has every value.`);
    const caption = element("figcaption", {textContent: `${layer.name}: what each rank costs and loses` + (layer.rank ? `; ringed: ${layer.order}, rank ${layer.rank}` : "")});
    const key = element("p", {className: "quiet", textContent: `Diamonds: dw-pw; triangles: pw-dw; the number is the rank. Parameters ${layer.params[0].toLocaleString("en")} \u2192 ${layer.params[1].toLocaleString("en")}.`});
    const cell = element("td", {colSpan: row.cells.length}, element("figure", {}, caption, chart), key, valuesOf(layer));
    row.opened = element("tr", {className: "detail-row"}, cell);
    row.after(row.opened);
    button.setAttribute("aria-expanded", "true");
    draw();
  }

  table.addEventListener("click", (event) => {
    const button = event.target.closest("button.open");
    if (!button) return;
    const row = button.closest("tr");
    if (!row.opened) return open(row, button);
    row.opened.remove();
    row.opened = undefined;
    button.setAttribute("aria-expanded", "false");
  });
})();
