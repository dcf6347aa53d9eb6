"use strict";
// The plots, each a specification for Observable Plot; colours come from the page's style sheet.
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const colour = {before: "var(--before)", after: "var(--after)", other: "var(--other)"};
  const symbols = {before: "circle", after: "diamond", other: "triangle"};
  const percent = (value) => (100 * value).toFixed(2) + " %";
  const points = (value) => (value >= 0 ? "+" : "\u2212") + (100 * Math.abs(value)).toFixed(2);
  const macs = (value) => d3.format(".3~s")(value).replace(/([kMGT])$/, " $1");
  const number = d3.format(".3~g");

  function frame(width, options) {
    return {width, style: {fontSize: "13px"}, marginLeft: 62, marginBottom: 42, ...options};
  }

  function hover(rows, x, y, title) {
    return Plot.tip(rows, Plot.pointer({x, y, title, lineWidth: 40, fill: "var(--panel)", stroke: "var(--quiet)"}));
  }

  // 1, 2 and 5 of each power of ten within the values; the powers alone where those are too many
  function logarithmicTicks(values, most) {
    const [low, high] = d3.extent(values.filter((value) => value > 0));
    const powers = d3.range(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high)) + 1).map((power) => 10 ** power);
    const inside = (ticks) => ticks.filter((tick) => tick >= 0.95 * low && tick <= 1.05 * high);
    const all = inside(powers.flatMap((power) => [power, 2 * power, 5 * power]));
    return all.length <= most ? all : inside(powers);
  }

  const drawings = {
    frontier(width) {
      const {unit, label, rows} = facts.frontier;
      const say = unit === "share" ? percent : number;
      const kinds = (kind) => rows.filter((row) => row.kind === kind);
      const dearest = d3.max(rows, (row) => row.macs) || 1;
      return Plot.plot(frame(width, {
        height: 330,
        marginRight: 20,
        x: {label: "MACs of one image \u2192", tickFormat: macs, domain: [0, 1.15 * dearest], grid: true, ticks: 5},
        y: {label: "\u2191 " + label, tickFormat: unit === "share" ? (v) => number(100 * v) + " %" : number, grid: true, nice: true, inset: 18},
        marks: [
          ...Object.keys(symbols).map((kind) => Plot.ruleX(kinds(kind), {x: "macs", y1: "low", y2: "high", stroke: colour[kind], strokeWidth: 2})),
          ...Object.keys(symbols).map((kind) => Plot.dot(kinds(kind), {x: "macs", y: "value", symbol: symbols[kind], r: 6, fill: colour[kind], stroke: "var(--paper)"})),
          ...[["start", 11, (row) => row.macs <= 0.6 * dearest], ["end", -11, (row) => row.macs > 0.6 * dearest]].map(([textAnchor, dx, filter]) =>
            Plot.text(rows, {x: "macs", y: "value", text: "name", filter, textAnchor, dx, fill: "var(--ink)", stroke: "var(--paper)", strokeWidth: 4})),
          hover(rows, "macs", "value", (row) => `${row.name}\n${label}: ${say(row.value)}` + (row.low < row.high ? `\n95 %: ${say(row.low)} to ${say(row.high)}` : "") + `\n${macs(row.macs)} MACs`),
        ],
      }));
    },

    prospects(width) {
      const {unit, rows} = facts.prospects;
      const losses = rows.map((row) => row.loss).filter((loss) => loss > 0);
      const floor = (d3.min(losses) || 1) / 2;  // a loss of nothing has no place on a logarithm
      const shown = rows.map((row) => ({...row, drawn: Math.max(row.loss, floor)}));
      return Plot.plot(frame(width, {
        height: 330,
        x: {label: "MACs of the convolutions \u2192", tickFormat: macs, grid: true, ticks: 5},
        y: {label: "\u2191 predicted loss, " + unit, type: "log", tickFormat: number, grid: true, ticks: logarithmicTicks(shown.map((row) => row.drawn), 8)},
        marks: [
          Plot.line(shown, {x: "macs", y: "drawn", stroke: colour.after, strokeWidth: 2}),
          Plot.dot(shown, {x: "macs", y: "drawn", fill: colour.after, r: 3}),
          hover(shown, "macs", "drawn", (row) => `loss ${number(row.loss)} (${unit})\n${macs(row.macs)} MACs`),
        ],
      }));
    },

    latency(width) {
      const rows = facts.latency;
      const order = [...new Set(rows.map((row) => row.runtime))];
      const place = new Map(order.map((name, index) => [name, index]));
      const shown = rows.map((row) => ({...row, y: place.get(row.runtime) + (row.which === "before" ? -0.17 : 0.17)}));
      const sides = ["before", "after"].map((side) => [side, shown.filter((row) => row.which === side)]);
      return Plot.plot(frame(width, {
        height: 70 + 46 * order.length,
        marginLeft: Math.min(0.48 * width, 16 + 7 * d3.max(order, (name) => name.length)),
        marginTop: 10,
        x: {label: "ms, logarithmic \u2192", type: "log", tickFormat: number, ticks: logarithmicTicks(rows.flatMap((row) => [row.min, row.q3]), width < 500 ? 4 : 10), grid: true},
        y: {label: null, domain: [-0.6, order.length - 0.4].reverse(), ticks: d3.range(order.length), tickFormat: (index) => order[index] ?? "", tickSize: 0},
        marks: [
          ...sides.map(([side, of]) => Plot.ruleY(of, {y: "y", x1: "min", x2: "q3", stroke: colour[side], strokeWidth: 2})),
          ...sides.map(([side, of]) => Plot.dot(of, {y: "y", x: "median", symbol: symbols[side], r: 5, fill: colour[side], stroke: "var(--paper)"})),
          hover(shown, "median", "y", (row) => `${row.which}, ${row.runtime}\nmedian ${number(row.median)} ms\nquartiles ${number(row.q1)} to ${number(row.q3)} ms\nleast ${number(row.min)} ms`),
        ],
      }));
    },

    confusion(width) {
      const {names, rows} = facts.confusion;
      const side = Math.min(width, 560);
      const most = d3.max(rows, (row) => row.images);
      const margin = Math.min(110, 20 + 7 * d3.max(names, (name) => name.length));
      return Plot.plot({
        width: side, height: side, marginLeft: margin, marginBottom: margin, marginTop: 8, marginRight: 8, style: {fontSize: "12px"},
        x: {domain: names, label: null, tickRotate: -45, tickSize: 0},
        y: {domain: names, label: null, tickSize: 0},
        color: {type: "linear", domain: [0, most], range: ["#d7e7f5", "#08427a"]},
        marks: [
          Plot.cell(rows, {x: "after", y: "before", fill: "images", inset: 1}),
          Plot.text(rows, {x: "after", y: "before", text: "images", fill: (row) => (row.images > 0.45 * most ? "white" : "#10233a"), fontSize: 11}),
          hover(rows, "after", "before", (row) => `${row.before} \u2192 ${row.after}\n${row.images} images: ${row.lost} lost, ${row.gained} gained`),
        ],
      });
    },

    classes(width) {
      const rows = facts.classes;
      return Plot.plot(frame(width, {
        height: 60 + 24 * rows.length,
        marginLeft: Math.min(130, 24 + 7 * d3.max(rows, (row) => row.name.length)),
        marginTop: 8,
        x: {label: "share right \u2192", tickFormat: (v) => number(100 * v) + " %", grid: true, ticks: width < 500 ? 3 : 5, nice: true},
        y: {domain: rows.map((row) => row.name), label: null, type: "point", padding: 0.6, tickSize: 0},
        marks: [
          Plot.ruleY(rows, {y: "name", x1: "before", x2: "after", stroke: "var(--quiet)", strokeWidth: 1.5}),
          Plot.dot(rows, {y: "name", x: "before", symbol: symbols.before, r: 5, fill: colour.before}),
          Plot.dot(rows, {y: "name", x: "after", symbol: symbols.after, r: 5, fill: colour.after}),
          hover(rows, "after", "name", (row) => `${row.name}, ${row.images} images\nbefore ${percent(row.before)}\nafter ${percent(row.after)}\n${points(row.after - row.before)} points`),
        ],
      }));
    },
  };

  function rankCurve(layer, width) {
    const rows = layer.curve.map(([order, rank, cost, lost, damage, measured]) => ({order, rank, cost, lost, damage, measured}));
    const judged = rows.filter((row) => row.damage !== null);
    const value = judged.length ? "damage" : "lost";
    const shown = judged.length ? judged.filter((row) => row.damage > 0) : rows.filter((row) => row.lost > 0);
    const orders = [["dw-pw", colour.after, "diamond"], ["pw-dw", colour.other, "triangle"]].map(([order, paint, symbol]) => [shown.filter((row) => row.order === order), paint, symbol]);
    const chosen = shown.filter((row) => row.order === layer.order && row.rank === layer.rank);
    const label = judged.length ? `loss of the outputs, ${facts.unit}` : "kernel energy lost";
    return Plot.plot(frame(width, {
      height: 240,
      x: {label: "MACs of this layer \u2192", tickFormat: macs, grid: true, ticks: 5, domain: [0, layer.macs]},
      y: {label: "\u2191 " + label, type: judged.length ? "log" : "linear", grid: true, insetTop: 16, ticks: judged.length ? logarithmicTicks(shown.map((row) => row.damage), 6) : 5, tickFormat: judged.length ? number : (v) => number(100 * v) + " %"},
      marks: [
        ...orders.map(([of, paint]) => Plot.line(of, {x: "cost", y: value, stroke: paint, strokeWidth: 2})),
        ...orders.map(([of, paint, symbol]) => Plot.dot(of, {x: "cost", y: value, fill: paint, symbol, r: 4})),
        Plot.dot(chosen, {x: "cost", y: value, r: 9, stroke: "var(--ink)", strokeWidth: 1.5}),
        Plot.text(shown, {x: "cost", y: value, text: (row) => `${row.rank}`, dy: -12, fill: "var(--ink)"}),
        hover(shown, "cost", value, (row) => `${row.order}, rank ${row.rank}\n${macs(row.cost)} MACs\nkernel energy lost ${percent(row.lost)}` + (row.damage === null ? "" : `\nloss ${number(row.damage)} (${row.measured ? "measured" : "estimated"})`)),
      ],
    }));
  }

  function draw() {
    for (const place of document.querySelectorAll(".chart[data-chart]")) {
      const width = Math.max(260, Math.floor(place.clientWidth));
      if (place.drawnAt === width) continue;
      place.drawnAt = width;
      const drawing = place.layer ? rankCurve(place.layer, width) : drawings[place.dataset.chart](width);
      drawing.setAttribute("aria-hidden", "true");  // the figure's own description says it
      place.replaceChildren(drawing);
    }
  }

  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(draw, 120); });
  window.sepify = {facts, draw, percent, macs, number};
  draw();
})();
