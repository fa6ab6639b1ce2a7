// What runs in the browser: it keeps the trials of the table, so that only those that changed are sent.
(function () {
  const kept = {name: null, sent: null, passing: null, rows: new Map(), columns: new Set(), grouped: false, groups: new Map()};
  const waiting = new Set();  // trials that have changed while the table was off the screen

  function bytes(text) {
    const found = window.atob(text), out = new Uint8Array(found.length);
    for (let at = 0; at < found.length; at++) out[at] = found.charCodeAt(at);
    return out.buffer;
  }

  let watched = null;  // the table of which it is known when it comes onto the screen

  const kinds = {f8: Float64Array, i1: Int8Array, i2: Int16Array, i4: Int32Array};

  // The cells of a column, which came packed: see `pack` of the server.
  function unpacked(column) {
    if (Array.isArray(column)) return column;
    if (column.n !== undefined) return Array(column.n).fill(column.of[0]);
    const numbers = new kinds[column.t](bytes(column.b));
    if (column.of !== undefined) return Array.from(numbers, (place) => column.of[place]);
    return column.t === "f8" ? Array.from(numbers, (x) => (x === x ? x : null)) : Array.from(numbers);
  }

  // The cells of a column of a figure, which came as a list or as numbers in base64.
  function cells(value) {
    if (Array.isArray(value)) return value;
    if (ArrayBuffer.isView(value)) return Array.from(value);
    const kind = {...kinds, f4: Float32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array}[value.dtype];
    return Array.from(new kind(bytes(value.bdata)));
  }

  function rows(news, passing, by) {
    if (!news) return window.dash_clientside.no_update;
    if (kept.sent !== news) {
      take(news);
      kept.sent = news;
      window.tuneLive.behind(news.revision);
    }
    kept.passing = passing === null || passing === undefined ? null : new Set(passing);
    kept.grouped = by === "configs";
    return shown();
  }

  function shown() {
    const all = Array.from(kept.rows.values());
    const found = kept.passing ? all.filter((row) => kept.passing.has(row.trial)) : all;
    return kept.grouped ? grouped(found) : found;
  }

  const isSeed = (name) => name.split("/").pop() === "seed";

  // A row for each config, of all runs of it whatever their seed: means of numbers, other things where they are the same.
  function grouped(all) {
    const sets = new Map();
    for (const row of all) {
      const config = Object.keys(row).filter((name) => name.startsWith("config/") && !isSeed(name));
      const key = JSON.stringify(config.map((name) => row[name]));
      sets.has(key) ? sets.get(key).push(row) : sets.set(key, [row]);
    }
    kept.groups = new Map();
    return Array.from(sets.values(), (members) => {
      const trial = members[0].trial, made = {trial, runs: members.length, members: members.map((row) => row.trial)};
      for (const name of Object.keys(members[0])) {
        if (name !== "trial" && !isSeed(name)) made[name] = together(members.map((row) => row[name]));
      }
      made.state = counted(members.map((row) => row.state));
      made.deviation = deviation(members.map((row) => row.best));
      for (const each of made.members) kept.groups.set(each, made);
      return made;
    });
  }

  const numbers = (values) => values.filter((value) => typeof value === "number");
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

  function together(values) {
    if (values.every((value) => value === values[0])) return values[0];
    return numbers(values).length ? mean(numbers(values)) : null;
  }

  function deviation(values) {
    const found = numbers(values);
    if (found.length < 2) return null;
    const middle = mean(found);
    return Math.sqrt(found.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (found.length - 1));
  }

  function counted(words) {
    const found = new Map();
    for (const word of words) found.set(word, (found.get(word) || 0) + 1);
    return found.size === 1 ? words[0] : Array.from(found, ([word, count]) => `${count} ${word}`).join(", ");
  }

  // The rows of the table that have these trials.
  function ids(trials) {
    const place = (trial) => (kept.grouped && kept.groups.has(trial) ? kept.groups.get(trial).trial : trial);
    return {ids: Array.from(new Set(trials.map((trial) => String(place(trial)))))};
  }

  // Take rows that have changed; return their trials.
  function take(news) {
    if (news.since === 0 || kept.name !== news.name) kept.rows = new Map(), kept.columns = new Set(), waiting.clear();
    kept.name = news.name;
    const known = kept.columns.size;
    Object.keys(news.columns).forEach((name) => kept.columns.add(name));
    // A metric that nobody had reported before can be picked.
    if (known && kept.columns.size > known) window.dash_clientside.set_props("columns", {data: Array.from(kept.columns)});
    const columns = Object.entries(news.columns).map(([name, column]) => [name, unpacked(column)]);
    const trials = unpacked(news.columns.trial);
    for (let at = 0; at < trials.length; at++) {
      const row = {};
      for (const [name, column] of columns) row[name] = column[at];
      kept.rows.set(trials[at], row);
    }
    return trials;
  }

  // Put rows that have changed into the table, of which those in `passing` pass the filter; return these.
  function merge(news, passing) {
    const trials = take(news), now = new Set(passing || []);
    for (const trial of trials) {
      waiting.add(trial);
      if (kept.passing) now.has(trial) ? kept.passing.add(trial) : kept.passing.delete(trial);
    }
    const table = document.getElementById("table");
    if (table && watched !== table) {
      watched = table;
      new window.IntersectionObserver((seen) => seen.some((each) => each.isIntersecting) && fill()).observe(table);
    }
    const box = table && table.getBoundingClientRect();
    if (box && box.bottom > 0 && box.top < window.innerHeight) fill();
    return trials.filter((trial) => !kept.passing || now.has(trial)).map((trial) => kept.rows.get(trial));
  }

  // Put what has changed into the table, which somebody sees.
  function fill() {
    const grid = window.dash_ag_grid && document.getElementById("table") && window.dash_ag_grid.getApi("table");
    if (!grid || !waiting.size) return;
    if (kept.grouped) {
      grid.setGridOption("rowData", shown());
    } else {
      const change = {add: [], update: [], remove: []};
      for (const trial of waiting) {
        const row = kept.rows.get(trial), there = grid.getRowNode(String(trial));
        if (row && (!kept.passing || kept.passing.has(trial))) change[there ? "update" : "add"].push(row);
        else if (there) change.remove.push(there.data);
      }
      grid.applyTransaction(change);
    }
    waiting.clear();
  }

  function chosen(selected) {
    if (!selected) return [];
    const trials = Array.isArray(selected) ? selected.map((row) => row.trial) : selected.ids.map(Number);
    return kept.grouped ? trials.flatMap((trial) => (kept.groups.get(trial) || {members: [trial]}).members) : trials;
  }

  // The trials inside all brushes of the parallel coordinates, read from the drawing: the numbers there are decoded.
  function brushed(change) {
    const drawing = document.querySelector("#parallel .js-plotly-plot");
    if (!change || !drawing || !drawing._fullData) return window.dash_clientside.no_update;
    const trace = drawing._fullData[0];
    const brushes = (trace.dimensions || []).filter((each) => each.constraintrange && each.constraintrange.length);
    if (!brushes.length) return {ids: []};
    const numbers = trace.customdata || trace.ids || [];
    const inside = (each, at) => {
      const ranges = Array.isArray(each.constraintrange[0]) ? each.constraintrange : [each.constraintrange];
      return ranges.some(([low, high]) => each.values[at] >= low && each.values[at] <= high);
    };
    const found = [];
    for (let at = 0; at < numbers.length; at++) {
      if (brushes.every((each) => inside(each, at))) found.push([].concat(numbers[at])[0]);
    }
    return ids(found);
  }

  // The points that were marked in a figure; their trials are read from the drawing, where numbers are decoded.
  function marked() {
    const cause = window.dash_clientside.callback_context.triggered[0];
    if (!cause || !cause.value) return window.dash_clientside.no_update;
    const name = JSON.parse(cause.prop_id.replace(".selectedData", "")).name;
    const drawing = document.querySelector("#" + name + " .js-plotly-plot");
    const found = new Set();
    for (const point of cause.value.points || []) {
      const numbers = drawing._fullData[point.curveNumber].customdata;
      if (numbers && numbers[point.pointNumber] !== undefined) found.add([].concat(numbers[point.pointNumber])[0]);
    }
    return found.size ? ids(Array.from(found)) : window.dash_clientside.no_update;
  }

  // The row of the trial of a point that the mouse is on, as text: what the table shows of it.
  function hovered(hover, columns) {
    const cause = window.dash_clientside.callback_context.triggered[0];
    const drawing = hover && document.querySelector("#" + JSON.parse(cause.prop_id.replace(".hoverData", "")).name + " .js-plotly-plot");
    const trace = drawing && drawing._fullData && drawing._fullData[hover.points[0].curveNumber];
    if (!trace) return window.dash_clientside.no_update;
    const row = kept.rows.get(Number.isInteger(trace.meta) ? trace.meta : [].concat((trace.customdata || [])[hover.points[0].pointNumber])[0]);
    if (!row) return window.dash_clientside.no_update;
    const cell = (value) => (typeof value === "number" ? Number(value.toPrecision(5)) : value);
    const there = (columns || []).filter((name) => row[name] !== null && row[name] !== undefined && row[name] !== "");
    return there.map((name) => name.replace(/^(config|metrics)\//, "") + " " + cell(row[name])).join(" · ");
  }

  // What the filter may go on with: the names that have the letters of its last word in them.
  function complete(text, names) {
    if (!names) return window.dash_clientside.no_update;
    const [, before, word] = (text || "").match(/^(.*?)([A-Za-z_][\w.]*)?$/s);
    if (before.trim() && !word && !/(\(|\b(and|or|not))\s*$/.test(before)) return [];
    if (/(["'])[^"']*$/.test(before.replace(/(["'])[^"']*\1/g, ""))) return [];  // inside a text
    const came = Array.from(kept.columns).filter((name) => /^(config|metrics)\/./.test(name));
    const all = new Set([...names, ...came.map((name) => name.replace(/^\w+\//, "").replaceAll("/", "."))]);
    const found = Array.from(all).filter((name) => name !== word && name.toLowerCase().includes((word || "").toLowerCase()));
    return found.map((name) => before + name);
  }

  // Write a figure as a file, with its title.
  function save() {
    const cause = window.dash_clientside.callback_context.triggered[0];
    if (!cause || !cause.value) return window.dash_clientside.no_update;
    const {name, as} = JSON.parse(cause.prop_id.replace(".n_clicks", ""));
    const place = document.getElementById(name);
    const drawing = place.querySelector(".js-plotly-plot");
    const size = {width: drawing.clientWidth, height: drawing.clientHeight + 50, scale: as === "png" ? 2 : 1};
    // On the page the title stands beside the drawing.
    const title = {text: place.getAttribute("aria-label"), x: 0.01, xanchor: "left", y: 0.98, yanchor: "top"};
    const layout = {...drawing.layout, title, height: size.height, margin: {...drawing.layout.margin, t: 80}};
    return window.Plotly.downloadImage({data: drawing.data, layout}, {format: as, filename: name, ...size});
  }

  function address(tab, filter, selection, columns, wanted, grouped, options, ids, shown, where) {
    const by = Array.isArray(wanted) ? wanted.join("\n") : "";
    window.tuneLive.choose(filter, selection, by, options, ids);
    const parts = new URLSearchParams();
    if (tab && tab !== "overview") parts.set("tab", tab);
    if (filter) parts.set("filter", filter);
    if (selection && selection.length && selection.length <= 50) parts.set("trials", selection.join(","));
    if (columns && shown && columns.join() !== shown.join()) parts.set("columns", columns.join(","));
    if (by) parts.set("metrics", by);
    if (grouped === "configs") parts.set("rows", grouped);
    ids.forEach(({name, of}, at) => {
      if (options[at] && options[at] !== 100) parts.set(name + "." + of, options[at]);
    });
    const text = parts.toString();
    const query = text ? "?" + text : "";
    if (where && where.trial === null && query !== window.location.search) {
      window.history.replaceState(null, "", window.location.pathname + query);
    }
    return query;
  }

  function versus(names, by) {
    const wanted = "?" + new URLSearchParams({of: (names || []).join(","), by: by || "trials"}).toString();
    if (wanted !== window.location.search) window.history.replaceState(null, "", window.location.pathname + wanted);
    return wanted;
  }

  function scheme(clicks) {
    const root = document.documentElement;
    const saved = window.localStorage.getItem("scheme");
    const system = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    let now = saved || system;
    if (clicks) {
      now = root.getAttribute("data-mantine-color-scheme") === "dark" ? "light" : "dark";
      window.localStorage.setItem("scheme", now);
    }
    root.setAttribute("data-mantine-color-scheme", now);
    document.body.dataset.agThemeMode = now;
    document.cookie = `scheme=${now}; path=/; SameSite=Strict; max-age=31536000`;  // the server draws for it
    return now;
  }

  // A list that nobody sees asks for nothing.
  document.addEventListener("visibilitychange", () => {
    if (document.getElementById("experiments")) window.dash_clientside.set_props("list-tick", {disabled: document.hidden});
  });

  // The order of a column: numbers before texts, and what is missing at the end either way.
  const missing = (value) => value === null || value === undefined || value === "";
  function missingLast(a, b, first, second, descending) {
    if (missing(a) || missing(b)) return missing(a) && missing(b) ? 0 : missing(a) === descending ? -1 : 1;
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a < typeof b ? -1 : 1;
  }
  window.dashAgGridFunctions = Object.assign(window.dashAgGridFunctions || {}, {missingLast});

  // What stands in two columns of the table: text of React, never markup.
  const element = (...what) => window.React.createElement(...what);
  window.dashAgGridComponentFunctions = Object.assign(window.dashAgGridComponentFunctions || {}, {
    TrialLink: ({path, value}) => element("a", {href: `${path}/t/${value}`}, String(value)),
    State: ({signs, value}) => {
      const [sign, colour] = signs[value] || ["?", "#777777"];
      const style = {borderLeft: "0.3rem solid " + colour, paddingLeft: "0.4rem"};
      return element("span", {style}, `${sign} ${value}`);
    },
  });

  window.tunePage = {cells, merge, row: (trial) => kept.rows.get(trial), unpacked};
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    page: {rows, chosen, brushed, marked, hovered, complete, save, address, versus, scheme, watch: window.tuneLive.watch, noted: window.tuneLive.noted},
  });
})();
