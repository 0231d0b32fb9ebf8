"use strict";
// Values under the pointer, words of marks, curves that are switched off, tables that are sorted and filtered, and on a
// served page fetching what is new. All of it by delegation, so that it holds for content that is replaced.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  document.body.append(tip);
  const hidden = new Set(); // runs or curves that are switched off: kept over a refresh
  const numbers = new WeakMap();

  function showTip(text, event) {
    tip.textContent = text;
    tip.classList.add("on");
    const box = tip.getBoundingClientRect();
    const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - 14 - box.width : event.clientX + 14;
    const top = event.clientY + 16 + box.height > innerHeight ? event.clientY - 12 - box.height : event.clientY + 16;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, top) + "px";
  }
  function hideTip() {
    tip.classList.remove("on");
    document.querySelectorAll(".cursor.on").forEach((line) => line.classList.remove("on"));
  }
  function chartNumbers(chart) {
    if (!numbers.has(chart)) {
      const source = chart.querySelector("script");
      numbers.set(chart, source ? JSON.parse(source.textContent) : null);
    }
    return numbers.get(chart);
  }
  function nearest(values, x) {
    let best = 0;
    for (let i = 1; i < values.length; i++) if (Math.abs(values[i] - x) < Math.abs(values[best] - x)) best = i;
    return best;
  }
  function readOut(svg, event) {
    const chart = svg.closest(".chart"), data = chartNumbers(chart);
    if (!data) return hideTip();
    const [left, right, , , low, high] = svg.dataset.plot.split(" ").map(Number);
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    if (place < left || place > right) return hideTip();
    const x = low + ((high - low) * (place - left)) / (right - left);
    const off = new Set([...chart.querySelectorAll(".key[aria-pressed=false]")].map((key) => key.dataset.series));
    const lines = [];
    let at = x;
    data.series.forEach((series, index) => {
      if (off.has(String(index)) || !series.x.length) return;
      const i = nearest(series.x, x);
      at = lines.length ? at : series.x[i];
      lines.push(`${series.name}: ${series.y[i]}`);
    });
    document.querySelectorAll(".cursor.on").forEach((line) => line.classList.remove("on"));
    const cursor = svg.querySelector(".cursor");
    const drawn = left + ((right - left) * (at - low)) / (high - low);
    cursor.setAttribute("x1", drawn);
    cursor.setAttribute("x2", drawn);
    cursor.classList.add("on");
    showTip([`${data.x} ${at}`, ...lines].join("\n"), event);
  }
  document.addEventListener("pointermove", (event) => {
    const marked = event.target.closest("[data-tip]");
    if (marked) return showTip(marked.dataset.tip, event);
    const svg = event.target.closest(".chart svg[data-plot]");
    return svg ? readOut(svg, event) : hideTip();
  });
  document.addEventListener("pointerdown", (event) => {
    const marked = event.target.closest("[data-tip]");
    if (marked) showTip(marked.dataset.tip, event);
  });
  document.addEventListener("focusin", (event) => {
    const marked = event.target.closest("[data-tip]");
    if (!marked) return;
    const box = marked.getBoundingClientRect();
    showTip(marked.dataset.tip, { clientX: box.right, clientY: box.bottom });
  });
  document.addEventListener("focusout", hideTip);
  addEventListener("scroll", hideTip, { passive: true });

  function nameOf(key) {
    const run = key.dataset.run;
    return run ? "run " + run : key.closest(".panel").querySelector("h3").textContent + " / " + key.dataset.series;
  }
  function applyHidden() {
    document.querySelectorAll("button.key").forEach((key) => {
      const off = hidden.has(nameOf(key));
      key.setAttribute("aria-pressed", String(!off));
      const selector = `.curve[data-series="${key.dataset.series}"]`;
      key.closest(".chart").querySelectorAll(selector).forEach((curve) => curve.classList.toggle("off", off));
    });
    document.querySelectorAll("input[data-run]").forEach((box) => (box.checked = !hidden.has("run " + box.dataset.run)));
  }
  function toggle(name, off) {
    if (off === undefined) off = !hidden.has(name);
    if (off) hidden.add(name);
    else hidden.delete(name);
    applyHidden();
  }

  let sorted = null, words = "", showSame = false;
  function applyTable() {
    document.querySelectorAll("table.runs").forEach((table) => {
      const rows = [...table.tBodies[0].rows];
      if (sorted) {
        const value = (row) => row.cells[sorted.column].dataset.value ?? row.cells[sorted.column].textContent;
        const number = (text) => (text === "" || Number.isNaN(Number(text)) ? null : Number(text));
        rows.sort((a, b) => {
          const [first, second] = [value(a), value(b)], [x, y] = [number(first), number(second)];
          if (x === null && y === null) return sorted.sign * first.localeCompare(second);
          if (x === null || y === null) return x === null ? 1 : -1; // what is not known goes last, either way
          return sorted.sign * (x - y);
        });
        table.tBodies[0].append(...rows);
      }
      [...table.tHead.rows[0].cells].forEach((cell, index) => {
        if (sorted && sorted.column === index) cell.setAttribute("aria-sort", sorted.sign > 0 ? "ascending" : "descending");
        else cell.removeAttribute("aria-sort");
      });
      rows.forEach((row) => {
        const out = words && !row.textContent.toLowerCase().includes(words.toLowerCase());
        row.classList.toggle("off", out);
        document.querySelectorAll(`.curve[data-run="${CSS.escape(row.dataset.run)}"]`).forEach((curve) => {
          curve.classList.toggle("off", out || hidden.has("run " + row.dataset.run));
        });
      });
    });
    document.querySelectorAll("table.differences").forEach((table) => table.classList.toggle("show-same", showSame));
    document.querySelectorAll("input.filter").forEach((box) => { if (box.value !== words) box.value = words; });
    document.querySelectorAll("input.same-too").forEach((box) => (box.checked = showSame));
  }
  document.addEventListener("click", (event) => {
    const key = event.target.closest("button.key");
    if (key) return (toggle(nameOf(key)), applyTable());
    const heading = event.target.closest("table.runs th button");
    if (!heading) return;
    const column = heading.parentElement.cellIndex;
    sorted = { column, sign: sorted && sorted.column === column ? -sorted.sign : 1 };
    applyTable();
  });
  document.addEventListener("input", (event) => {
    if (event.target.matches("input.filter")) words = event.target.value;
    else if (event.target.matches("input.same-too")) showSame = event.target.checked;
    else if (event.target.matches("input[data-run]")) toggle("run " + event.target.dataset.run, !event.target.checked);
    else return;
    applyTable();
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
  applyHidden();
  applyTable();

  // A served page: asks for its content again, and replaces it only when it is another one.
  const live = document.querySelector(".live");
  if (!live) return;
  let tag = null, lost = 0;
  async function refresh() {
    if (document.hidden && tag) return;
    try {
      const answer = await fetch(live.dataset.source, { headers: tag ? { "If-None-Match": tag } : {} });
      if (answer.status === 200) {
        tag = answer.headers.get("ETag");
        const open = [...document.querySelectorAll("#content details[open]")].map((one) => one.id);
        const focused = document.activeElement && document.activeElement.matches("input.filter");
        document.getElementById("content").innerHTML = await answer.text();
        open.forEach((id) => { const one = document.getElementById(id); if (one) one.open = true; });
        hideTip();
        applyHidden();
        applyTable();
        if (focused) { const box = document.querySelector("input.filter"); box.focus(); box.setSelectionRange(words.length, words.length); }
      } else if (answer.status !== 304) throw new Error(String(answer.status));
      lost = 0;
      live.textContent = live.dataset.words + " " + new Date().toLocaleTimeString();
    } catch {
      lost++;
      if (lost > 1) live.textContent = live.dataset.lost;
    }
    live.classList.toggle("lost", lost > 1);
  }
  refresh();
  setInterval(refresh, Number(live.dataset.interval) * 1000);
  document.addEventListener("visibilitychange", refresh);
})();
