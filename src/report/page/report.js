"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { series, extent, axis } = data;
  const count = series.live_most.length;
  const plots = [...document.querySelectorAll(".chart")];
  const tip = document.getElementById("tip");
  // What is shown of the axis.
  let from = 0, to = extent;

  const element = (name, text, parent, cls) => {
    const one = document.createElement(name);
    if (text) one.textContent = text;
    if (cls) one.className = cls;
    if (parent) parent.append(one);
    return one;
  };

  // Units: as the text of the page has them.
  const grouped = (number) => Math.round(number).toLocaleString("en-US");
  const bytes = (number) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let at = 0, value = number;
    while (value >= 1024 && at < units.length - 1) { value /= 1024; at++; }
    const digits = at === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    return `${Number(value.toFixed(digits))} ${units[at]}`;
  };
  const clock = [[3600e9, "h"], [60e9, "min"], [1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]];
  const unitOf = (value) => clock.find(([unit]) => value >= unit) ?? clock[5];
  const span = (value, step) => {
    if (axis === "events") return grouped(value);
    if (value === 0) return "0";
    const [unit, name] = unitOf(value);
    const digits = step ? Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9)) : 3;
    return `${Number((value / unit).toFixed(Math.min(digits, 9)))} ${name}`;
  };
  const stepOf = (least) => {
    const seconds = [15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400];
    if (axis === "time" && least > 10e9 && least <= 86400e9) return seconds.find((s) => s * 1e9 >= least) * 1e9;
    for (let power = 1; ; power *= 10) for (const factor of [1, 2, 5]) if (factor * power >= least) return factor * power;
  };

  // Time that is shown: the drawings are stretched, their labels set anew.
  const left = (value) => (value - from) / (to - from);
  const show = (begin, end) => {
    const least = Math.min(extent, Math.max(series.width * 4, 4));
    const length = Math.min(extent, Math.max(end - begin, least));
    from = Math.min(Math.max(0, begin), extent - length);
    to = from + length;
    const step = stepOf(Math.max(1, (to - from) / 6));
    for (const chart of plots) {
      const svg = chart.querySelector(".plot > svg");
      svg.setAttribute("viewBox", `${(4000 * from) / extent} 0 ${(4000 * (to - from)) / extent} 1000`);
      const labels = chart.querySelector(".x");
      labels.textContent = "";
      for (let value = Math.ceil(from / step) * step; value <= to; value += step)
        element("span", span(value, step), labels).style.left = `${100 * left(value)}%`;
      for (const mark of chart.querySelectorAll(".mark")) {
        const at = left(mark.dataset.x * extent);
        mark.hidden = at < 0 || at > 1;
        mark.style.left = `${100 * at}%`;
        mark.classList.toggle("before", at > 0.6);
      }
    }
    document.documentElement.dataset.zoomed = to - from < extent;
  };
  const zoom = (factor, around = (from + to) / 2) => {
    const half = ((to - from) * factor) / 2;
    show(around - half, around + half);
  };

  // What there was in a stretch.
  const cross = plots.map((chart) => element("div", "", chart.querySelector(".plot"), "cross"));
  for (const line of cross) line.hidden = true;
  let at = -1;
  const range = (least, most) => (least === most ? bytes(most) : `${bytes(least)} to ${bytes(most)}`);
  const rows = (chart, index) => {
    const begin = index * series.width;
    const all = [[axis === "time" ? "from" : "event", span(begin)]];
    if (chart.id === "rate") {
      all.push(["allocations", grouped(series.allocations[index])], ["frees", grouped(series.frees[index])]);
      all.push(["requested", bytes(series.requested[index])]);
    } else if (chart.id === "unused") {
      const percent = (value) => `${(100 * value).toFixed(1)} %`;
      all.push(["unused", `${percent(series.unused_least[index])} to ${percent(series.unused_most[index])}`]);
      all.push(["on pages", range(series.pages_least[index], series.pages_most[index])]);
    } else {
      all.push(["live", range(series.live_least[index], series.live_most[index])]);
      all.push(["", `${grouped(series.live_most[index])} bytes`]);
      all.push(["allocated", range(series.allocated_least[index], series.allocated_most[index])]);
      all.push(["on pages", range(series.pages_least[index], series.pages_most[index])]);
      if (series.reserved_most) all.push(["reserved", range(series.reserved_least[index], series.reserved_most[index])]);
      for (const group of [...data.groups].reverse()) if (group.held[index]) all.push([group.name, bytes(group.held[index])]);
    }
    return all;
  };
  const place = (x, y) => {
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, x + 16 + width > innerWidth ? x - width - 16 : x + 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 12, innerHeight - height - 4))}px`;
  };
  const point = (chart, index, x, y) => {
    if (count === 0) return;
    at = Math.max(0, Math.min(count - 1, index));
    const middle = left(Math.min((at + 0.5) * series.width, extent));
    for (const line of cross) { line.hidden = middle < 0 || middle > 1; line.style.left = `${100 * middle}%`; }
    tip.textContent = "";
    const body = element("tbody", "", element("table", "", tip));
    for (const [name, value] of rows(chart, at)) {
      const row = element("tr", "", body);
      element("td", name, row);
      element("td", value, row);
    }
    const box = chart.querySelector(".plot").getBoundingClientRect();
    place(x ?? box.left + middle * box.width, y ?? box.top);
  };
  const nothing = () => {
    tip.hidden = true;
    for (const line of cross) line.hidden = true;
  };

  for (const chart of plots) {
    const plot = chart.querySelector(".plot"), svg = plot.querySelector("svg");
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", `${svg.getAttribute("aria-label")}. Arrow keys move, plus and minus zoom.`);
    // What the drawing says where the pointer rests is said by the tip now.
    for (const title of svg.querySelectorAll("rect > title")) {
      title.parentNode.dataset.said = title.textContent;
      title.remove();
    }
    const share = (event) => {
      const box = plot.getBoundingClientRect();
      return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    };
    const value = (event) => from + share(event) * (to - from);
    let began = null, drag = null;
    plot.addEventListener("pointermove", (event) => {
      if (began !== null) {
        const [one, two] = [left(began), share(event)].sort((a, b) => a - b);
        if (!drag && two - one > 0.01) drag = element("div", "", plot, "drag");
        if (drag) { drag.style.left = `${100 * one}%`; drag.style.width = `${100 * (two - one)}%`; }
      }
      const said = event.target.dataset?.said;
      if (said && !drag) {
        nothing();
        tip.textContent = said;
        place(event.clientX, event.clientY);
      } else point(chart, Math.floor(value(event) / series.width), event.clientX, event.clientY);
    });
    plot.addEventListener("pointerdown", (event) => { if (event.button === 0) began = value(event); });
    plot.addEventListener("pointerleave", () => { if (began === null) nothing(); });
    addEventListener("pointerup", (event) => {
      if (drag) {
        const [one, two] = [began, value(event)].sort((a, b) => a - b);
        drag.remove();
        show(one, two);
        nothing();
      }
      began = drag = null;
    });
    plot.addEventListener("dblclick", () => show(0, extent));
    plot.addEventListener("blur", nothing);
    plot.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -50, PageDown: 50 }[event.key];
      const shown = [Math.ceil(from / series.width), Math.floor((to - 1) / series.width)];
      if (move) point(chart, at < 0 ? shown[0] : Math.max(shown[0], Math.min(shown[1], at + move)));
      else if (event.key === "Home") point(chart, shown[0]);
      else if (event.key === "End") point(chart, shown[1]);
      else if (event.key === "+" || event.key === "=") zoom(0.5, at < 0 ? undefined : (at + 0.5) * series.width);
      else if (event.key === "-") zoom(2);
      else if (event.key === "0" || event.key === "Escape") { show(0, extent); nothing(); }
      else return;
      event.preventDefault();
    });
  }
  document.getElementById("zoom").addEventListener("click", (event) => {
    const how = event.target.dataset.zoom;
    if (how === "in") zoom(0.5, at < 0 ? undefined : (at + 0.5) * series.width);
    else if (how === "out") zoom(2);
    else if (how === "all") show(0, extent);
  });

  // Tables, sorted by a column: the largest first, then the other way round.
  for (const table of document.querySelectorAll("main table")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = element("button", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => Number(row.cells[column].dataset.v);
        body.append(...[...body.rows].sort((a, b) => (up ? value(a) - value(b) : value(b) - value(a))));
      });
    });
  }

  // Light or dark: as the system has it, until someone says otherwise.
  const theme = document.getElementById("theme"), root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => {
    theme.textContent = isDark() ? "light" : "dark";
    theme.setAttribute("aria-pressed", String(isDark()));
    theme.setAttribute("aria-label", `Show it ${isDark() ? "light" : "dark"}`);
  };
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); });
  system.addEventListener("change", label);
  label();
  document.getElementById("controls").hidden = false;
  root.dataset.ready = "yes";
})();
