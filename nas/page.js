"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const NARROW = 560;
  const STANDING_OUT = 3;  // priorities below this one are always named
  const coarse = matchMedia("(pointer: coarse)").matches;
  const hiddenGroups = new Set();

  // Names beside points: each tries the places around its point and is left out where none is free.
  const PLACES = {
    around: ["middle right", "middle left", "top center", "bottom center", "top right", "top left", "bottom right", "bottom left"],
    end: ["middle right", "top right", "bottom right"],
    inner: ["top left", "bottom left"],
  };
  const pen = document.createElement("canvas").getContext("2d");

  function box(place, x, y, radius, width, height) {
    const gap = 3, [vertical, horizontal] = place.split(" ");
    const left = horizontal === "right" ? x + radius + gap : horizontal === "left" ? x - radius - gap - width : x - width / 2;
    const top = vertical === "top" ? y - radius - height : vertical === "bottom" ? y + radius : y - height / 2;
    return [left, top, left + width, top + height];
  }
  const meet = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

  function label(plot) {
    const traces = plot._fullData, { xaxis, yaxis, _size: size } = plot._fullLayout;
    const narrow = plot.clientWidth < NARROW;
    const wanted = [], discs = [];
    traces.forEach((trace, index) => {
      if (trace.visible !== true || !trace.meta || !trace.meta.labels) return;
      for (let i = 0; i < trace.x.length; i++) {
        const x = xaxis.d2p(trace.x[i]), y = yaxis.d2p(trace.y[i]);
        const given = Array.isArray(trace.marker.size) ? trace.marker.size[i] : trace.marker.size;
        const radius = given / 2;
        const point = { trace: index, i, x, y, radius, name: trace.customdata[i], priority: trace.meta.priority, kind: trace.meta.labels };
        if (!(x >= 0 && x <= size.w && y >= 0 && y <= size.h)) continue;
        if (point.kind === "around" || point.name) discs.push(point);
        if (point.name) wanted.push(point);
      }
    });
    const seen = new Set(), placed = [];
    const texts = new Map(), places = new Map();
    traces.forEach((trace, index) => {
      if (trace.meta && trace.meta.labels) {
        texts.set(index, Array(trace.x.length).fill(""));
        places.set(index, Array(trace.x.length).fill("middle right"));
      }
    });
    // In a narrow chart names lie on the lines, so only those of most interest are worth it.
    const ends = wanted.filter((point) => point.kind === "end");
    const crowded = narrow && ends.length > 12;
    wanted.sort((a, b) => a.priority - b.priority || b.radius - a.radius);
    for (const point of wanted) {
      if (seen.has(point.name) || (crowded && point.kind === "end" && point.priority >= STANDING_OUT)) continue;
      const font = traces[point.trace].textfont;
      pen.font = `${font.size}px ${font.family}`;
      const width = pen.measureText(point.name).width + 2, height = font.size + 2;
      const right = size.w + (point.kind === "end" && !narrow ? size.r : 4);
      for (const place of PLACES[point.kind === "end" && narrow ? "inner" : point.kind]) {
        const at = box(place, point.x, point.y, point.radius, width, height);
        const free = at[0] >= 0 && at[2] <= right && at[1] >= -4 && at[3] <= size.h + 4 &&
          !placed.some((other) => meet(at, other)) &&
          !discs.some((disc) => disc !== point &&
            meet(at, [disc.x - disc.radius * 0.8, disc.y - disc.radius * 0.8, disc.x + disc.radius * 0.8, disc.y + disc.radius * 0.8]));
        if (free) {
          placed.push(at);
          seen.add(point.name);
          texts.get(point.trace)[point.i] = point.name;
          places.get(point.trace)[point.i] = place;
          break;
        }
      }
    }
    for (const [index, text] of texts) Object.assign(plot.data[index], { text, textposition: places.get(index) });
  }

  // Plotly turns or crowds the numbers of a short axis; these ticks are as dense as their numbers allow.
  const DENSITIES = [[1, 2, 5], [1, 3], [1]];
  function ticks(plot) {
    const axis = plot._fullLayout.xaxis, given = plot.layout.xaxis;
    if (given.ticktext) return;
    given.nticks = Math.min(8, Math.max(3, Math.floor(axis._length / 65)));
    if (axis.type !== "log") return;
    const [from, to] = axis.range.map((end) => 10 ** end).sort((a, b) => a - b);
    const decades = [];
    for (let power = Math.floor(Math.log10(from)); power <= Math.log10(to); power++) decades.push(power);
    const inside = (digits) => decades.flatMap((power) => digits.map((digit) => Number(`${digit}e${power}`)))
      .filter((value) => value >= from && value <= to);
    pen.font = `${axis.tickfont.size}px ${axis.tickfont.family}`;
    const room = (values) => values.every((value, i) => {
      const half = (number) => pen.measureText(number.toLocaleString("en-US")).width / 2 + 5;
      return i === 0 || axis.d2p(value) - axis.d2p(values[i - 1]) >= half(value) + half(values[i - 1]);
    });
    let values = DENSITIES.map(inside).find(room) || [];
    if (values.length < 2) values = inside([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const fits = values.length >= 2 && room(values);
    Object.assign(given, fits ? { tickmode: "array", tickvals: values } : { tickmode: "auto", tickvals: undefined });
  }

  // Axis titles do not wrap by themselves.
  function wrapped(text, characters) {
    const lines = [""];
    for (const word of text.split(" ")) {
      if (lines.at(-1) && (lines.at(-1) + word).length >= characters) lines.push("");
      lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
    }
    return lines.join("<br>");
  }

  function draw(plot) {
    plot.dataset.drawn = "yes";
    const { data, layout } = JSON.parse(plot.querySelector("script").textContent);
    const title = layout.xaxis.title.text, room = layout.margin.r, hasNames = Boolean(layout.yaxis.ticktext);
    const fit = (width) => {
      const narrow = width < NARROW, shown = plot.layout || layout;
      shown.width = width;
      shown.margin.r = narrow ? Math.min(room, 18) : room;
      shown.xaxis.title.text = wrapped(title, Math.floor((width - (hasNames ? 190 : 60)) / 6.5));
      if (hasNames) shown.yaxis.tickfont.size = narrow ? 10 : 11;
    };
    const refine = () => {
      ticks(plot);
      label(plot);
      // Plotly never fills again what it has once drawn without a name.
      for (const node of all(".textpoint", plot)) node.remove();
      return Plotly.redraw(plot);
    };
    const config = {
      displaylogo: false, displayModeBar: coarse || plot.clientWidth < NARROW ? false : "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    };
    // A finger on a chart must scroll the page; a mouse zooms.
    const dragmode = coarse ? false : "zoom";
    plot.replaceChildren();
    let width = plot.clientWidth;
    fit(width);
    return Plotly.newPlot(plot, data, { ...layout, dragmode }, config).then(refine).then(() => {
      plot.refine = refine;
      plot.on("plotly_relayout", refine);
      followIn(plot);
      plot.fitTo = (to) => {
        if (!to || to === width) return Promise.resolve();
        width = to;
        fit(to);
        return Plotly.redraw(plot).then(refine);
      };
      new ResizeObserver(() => plot.fitTo(plot.clientWidth)).observe(plot);
    });
  }

  // Parallel coordinates, without WebGL: lines on a canvas, axes and brushes in SVG above it.
  const kept = new Map();
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes, parent, text = "") => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    return parent.appendChild(node);
  };
  function parallel(root) {
    const { link, names, colours, axes } = JSON.parse(root.querySelector("script").textContent);
    // The last axis' label leans out to the right of it.
    const right = Math.max(64, 6 * axes[axes.length - 1].label.length);
    const top = 96, height = 330, left = 46, ranges = new Map();
    const canvas = document.createElement("canvas"), tip = Object.assign(document.createElement("div"), { className: "tip" });
    const svg = document.createElementNS(SVG, "svg");
    root.replaceChildren(canvas, svg, tip);
    let at = [], width = 0, pointed = -1;
    const y = (place) => top + (1 - place) * height;
    const inside = (index) => [...ranges].every(([axis, [from, to]]) => {
      const place = axes[axis].places[index];
      return place !== null && place >= from - 1e-9 && place <= to + 1e-9;
    });
    const line = (pen, index) => {
      let open = false;
      pen.beginPath();
      axes.forEach(({ places }, axis) => {
        const place = places[index];
        if (place === null) open = false;
        else if (open) pen.lineTo(at[axis], y(place));
        else { pen.moveTo(at[axis], y(place)); open = true; }
      });
      pen.stroke();
    };
    function paint() {
      const sharp = devicePixelRatio || 1, all = top + height + 14;
      Object.assign(canvas, { width: width * sharp, height: all * sharp });
      Object.assign(canvas.style, { width: `${width}px`, height: `${all}px` });
      const pen = canvas.getContext("2d");
      pen.scale(sharp, sharp);
      const strength = Math.max(0.25, Math.min(0.85, 40 / names.length + 0.2));
      for (const chosen of [false, true]) {
        names.forEach((_, index) => {
          if (inside(index) !== chosen) return;
          [pen.strokeStyle, pen.globalAlpha, pen.lineWidth] = chosen ? [colours[index], strength, 1.3] : ["#dddddd", 0.25, 1];
          line(pen, index);
        });
      }
      if (pointed >= 0) {
        [pen.strokeStyle, pen.globalAlpha, pen.lineWidth] = ["#000000", 1, 2.2];
        line(pen, pointed);
      }
    }
    function frame() {
      width = Math.max(root.clientWidth, 92 * axes.length);
      at = axes.map((_, axis) => left + axis * (width - left - right) / Math.max(1, axes.length - 1));
      svg.replaceChildren();
      Object.entries({ width, height: top + height + 14 }).forEach(([key, value]) => svg.setAttribute(key, value));
      axes.forEach(({ label, ticks }, axis) => {
        const group = make("g", { transform: `translate(${at[axis]},0)` }, svg);
        make("line", { y1: top, y2: top + height, stroke: "#777" }, group);
        make("text", { x: 0, y: 0, transform: `translate(-6,${top - 12}) rotate(-24)`, "font-size": 11.5 }, group, label);
        for (const [place, text] of ticks) make("text", { x: 5, y: y(place) + 4, "font-size": 10.5, class: "tick" }, group, text);
        const shown = make("rect", { x: -7, width: 14, y: top, height: 0, fill: "#0b57a4", opacity: 0.25 }, group);
        const area = make("rect", { x: -16, width: 32, y: top - 6, height: height + 12, fill: "transparent", class: "brush" }, group);
        const mark = () => {
          const [from, to] = ranges.get(axis) || [0, 0];
          shown.setAttribute("y", y(to));
          shown.setAttribute("height", (to - from) * height);
        };
        mark();
        let start = null;
        const place = (event) => Math.min(1, Math.max(0, 1 - (event.clientY - svg.getBoundingClientRect().top - top) / height));
        const brush = (event) => {
          const now = place(event);
          if (Math.abs(now - start) * height < 4) ranges.delete(axis);
          else ranges.set(axis, [Math.min(start, now), Math.max(start, now)]);
          mark();
          paint();
        };
        area.addEventListener("pointerdown", (event) => {
          start = place(event);
          if (event.isTrusted) area.setPointerCapture(event.pointerId);
          event.preventDefault();
        });
        area.addEventListener("pointermove", (event) => start !== null && brush(event));
        area.addEventListener("pointerup", (event) => {
          if (start === null) return;
          brush(event);
          start = null;
          tell(link, ranges.size ? new Set(names.filter((_, index) => inside(index))) : null);
        });
      });
      paint();
    }
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), x = event.clientX - box.left, height_ = event.clientY - box.top;
      let axis = at.findIndex((value) => value > x) - 1;
      if (axis < 0) axis = at.length - 2;
      let best = 9;
      const before = pointed;
      pointed = -1;
      names.forEach((_, index) => {
        const a = axes[axis].places[index], b = axes[axis + 1] && axes[axis + 1].places[index];
        if (!inside(index) || a === null || b === null || b === undefined) return;
        const share = (x - at[axis]) / (at[axis + 1] - at[axis]), off = Math.abs(y(a + (b - a) * share) - height_);
        if (off < best) [best, pointed] = [off, index];
      });
      tip.hidden = pointed < 0;
      if (pointed >= 0) Object.assign(tip.style, { left: `${x + 12}px`, top: `${height_ + 12}px` });
      tip.textContent = pointed < 0 ? "" : `trial ${names[pointed]}`;
      if (before !== pointed) paint();
    });
    svg.addEventListener("pointerleave", () => { pointed = -1; tip.hidden = true; paint(); });
    frame();
    new ResizeObserver(() => Math.max(root.clientWidth, 92 * axes.length) !== width && frame()).observe(root);
  }
  function tell(link, names) {
    kept.set(link, names);
    for (const plot of all(".plot[data-drawn]")) followIn(plot);
    for (const table of all(".table[data-link]")) table.filter();
  }
  function followIn(plot) {
    (plot.data || []).forEach((trace, index) => {
      const link = trace.meta && trace.meta.link;
      if (!kept.has(link)) return;
      const names = kept.get(link);
      const selected = names && trace.customdata.flatMap((name, at) => (names.has(name) ? [at] : []));
      Plotly.restyle(plot, { selectedpoints: [selected] }, [index]);
    });
  }

  // One chart per turn, so that the page answers meanwhile.
  function drawShown() {
    const next = all(".plot").find((plot) => !plot.dataset.drawn && !plot.closest("[hidden]"));
    if (!next) {
      document.body.dataset.ready = "yes";
      return;
    }
    draw(next).finally(() => setTimeout(drawShown, 0));
  }

  function toggle(group) {
    const show = hiddenGroups.delete(group) || (hiddenGroups.add(group), false);
    for (const button of all("button[data-group]")) if (button.dataset.group === group) button.setAttribute("aria-pressed", show);
    for (const plot of all(".plot[data-drawn]")) {
      const indices = plot.data.flatMap((trace, index) => (trace.legendgroup === group ? [index] : []));
      if (indices.length) Plotly.restyle(plot, { visible: show }, indices).then(() => plot.refine && plot.refine());
    }
  }

  function choose(name, option) {
    for (const button of all("button[data-choice]"))
      if (button.dataset.choice === name) button.setAttribute("aria-pressed", button.dataset.option === option);
    for (const block of all(".option"))
      if (block.dataset.choice === name) block.hidden = block.dataset.option !== option;
    drawShown();
  }

  function tools(table) {
    const bar = table.querySelector(".tools"), heads = all("th", table), body = table.querySelector("tbody"), rows = [...body.rows];
    const search = Object.assign(document.createElement("input"), { type: "search", placeholder: "search rows" });
    search.setAttribute("aria-label", "search rows");
    const count = document.createElement("span");
    const picks = heads.flatMap((head, index) => {
      if (!("pick" in head.dataset)) return [];
      const values = [...new Set(rows.map((row) => row.cells[index].textContent))];
      if (values.length < 2) return [];
      const select = document.createElement("select");
      const title = head.textContent;
      select.setAttribute("aria-label", title);
      select.append(new Option(`${title}: all`, ""), ...values.map((value) => new Option(`${title}: ${value}`, value)));
      return [{ index, select }];
    });
    const filter = () => {
      const names = kept.get(table.dataset.link);
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word)) || Boolean(names && !names.has(row.dataset.key)) ||
          picks.some(({ index, select }) => select.value && row.cells[index].textContent !== select.value);
        shown += !row.hidden;
      }
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    const value = (row, index) => {
      const { dataset, textContent } = row.cells[index];
      return "value" in dataset ? Number(dataset.value) : textContent;
    };
    heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const numeric = head.classList.contains("number");
      const empty = (row) => (numeric ? !("value" in row.cells[index].dataset) : !row.cells[index].textContent);
      // Rows without a value stay at the end either way.
      rows.sort((a, b) => empty(a) - empty(b) || (empty(a) ? 0 :
        (descending ? -1 : 1) * (numeric ? value(a, index) - value(b, index) : String(value(a, index)).localeCompare(value(b, index), undefined, { numeric: true }))));
      body.append(...rows);
    }));
    for (const cell of all("td", table)) if (cell.textContent.length > 40) cell.title = cell.textContent;
    bar.append(search, ...picks.map(({ select }) => select), count);
    bar.addEventListener("input", filter);
    table.filter = filter;
    filter();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.group) toggle(button.dataset.group);
    else if (button.dataset.choice) choose(button.dataset.choice, button.dataset.option);
  });
  const PAPER = 680;  // pixels of an A4 page's width between margins
  addEventListener("beforeprint", () => all(".plot[data-drawn]").forEach((plot) => plot.fitTo && plot.fitTo(PAPER)));
  addEventListener("afterprint", () => all(".plot[data-drawn]").forEach((plot) => plot.fitTo && plot.fitTo(plot.clientWidth)));
  all(".table").forEach(tools);
  all(".parallel").forEach(parallel);
  drawShown();
})();
