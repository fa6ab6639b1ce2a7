// Puts what has just come over the figures that rest between two drawings, so that they follow the search as the table
// does: new points of the history with the best so far, and the ends of curves.
//
// All is read from the rows that the table gets and from what is drawn, and costs next to nothing: of ten thousand
// points the browser would draw each anew. The next drawing of the figure takes its place.
(function () {
  const MANY = 2000;  // trials that are put over one figure
  const TOP = 20;  // curves that are shown where nothing else is chosen
  const came = new Map();  // by figure: what has come since it was drawn, {drawing, rows by trial}

  // Where a value lies in pixels; null outside of the axis.
  const within = (axis, value) => {
    const at = axis.d2p(value);
    return Number.isFinite(at) && at >= 0 && at <= axis._length ? axis._offset + at : null;
  };
  const known = (value) => value !== null && value !== undefined;
  const last = (cells) => cells[cells.length - 1];
  const cells = (value) => window.tunePage.cells(value || []);

  // What is to be drawn over the history: a mark a trial, and the best so far from where it ends.
  function history(drawing, rows) {
    const best = drawing.data.find((trace) => trace.name === "best so far");
    if (!best) return null;
    const [xs, ys] = [cells(best.x), cells(best.y)];
    const shapes = [], line = xs.length ? [[last(xs), last(ys)]] : [];
    const better = (a, b) => (best.meta === "max" ? a > b : a < b);
    for (const row of rows.filter((each) => known(each.best)).sort((a, b) => a.trial - b.trial)) {
      const like = drawing.data.find((trace) => trace.meta === row.state && trace.yaxis !== "y2");
      shapes.push({at: [row.trial, row.best], colour: like ? like.marker.color : "#7F7F7F"});
      if (line.length && row.trial < last(line)[0]) continue;
      if (line.length) line.push([row.trial, last(line)[1]]);
      if (!line.length || better(row.best, last(line)[1])) line.push([row.trial, row.best]);
    }
    return [...shapes, {line, colour: best.line.color}];
  }

  // What is to be drawn over the curves: of each trial that is shown the way to its last report. One that belongs among
  // the best, which are shown, lacks.
  function curves(drawing, rows, metric, mode, top) {
    const traces = drawing.data.filter((each) => Number.isInteger(each.meta));
    const worst = traces.map((each) => (window.tunePage.row(each.meta) || {}).best).filter(known).sort((a, b) => b - a);
    const least = traces.length < top ? undefined : mode === "max" ? last(worst) : worst[0];
    const found = [];
    for (const row of rows) {
      const trace = traces.find((each) => each.meta === row.trial);
      const value = row["metrics/" + metric];
      if (!trace && top && known(row.best)) {
        if (!known(least) || (mode === "max" ? row.best > least : row.best < least)) found.push({});
      }
      if (!trace || !known(value) || !known(row.step)) continue;
      const [xs, ys] = [cells(trace.x), cells(trace.y)];
      if (xs.length && row.step > last(xs)) found.push({line: [[last(xs), last(ys)], [row.step, value]], colour: trace.line.color});
    }
    return found;
  }

  // Only figures over trials and over steps: of others the table does not have what they show. `chosen`: trials that
  // somebody has selected, whose curves are shown instead of the best.
  function shapes(name, drawing, rows, {options, metric, mode, chosen}) {
    const other = (...names) => names.some((each) => options[each]);
    if (name === "history" && !other("x")) return history(drawing, rows);
    if (name === "curves" && metric && !other("x", "metric", "smoothing", "bands")) {
      return curves(drawing, rows, metric, mode, chosen ? 0 : Number(options.top || TOP));
    }
    return null;
  }

  // Put rows that have changed over a figure. Returns whether it now shows all of them, which it does not where one
  // lies outside of its axes; undefined where they cannot be put over it.
  function put(name, rows, told) {
    const drawing = document.querySelector("#" + name + " .js-plotly-plot");
    if (!drawing || !drawing._fullLayout || !drawing._fullLayout.xaxis) return undefined;
    const had = came.get(name) || {rows: new Map()};
    came.set(name, had);
    for (const row of rows) had.rows.set(row.trial, row);
    if (had.rows.size > MANY) return undefined;
    if (had.drawing !== drawing) {
      had.drawing = drawing;
      drawing.on("plotly_afterplot", () => plotted(name, had));
    }
    had.told = told;
    return paint(name, drawing, had);
  }

  function paint(name, drawing, {rows, told}) {
    const place = document.getElementById(name);
    let over = place.querySelector("svg.ahead");
    if (!over) {
      over = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      over.setAttribute("class", "ahead");
      over.setAttribute("aria-hidden", "true");
      place.append(over);
    }
    const wanted = rows.size ? shapes(name, drawing, Array.from(rows.values()), told) : [];
    if (!wanted) return over.replaceChildren(), undefined;
    const {xaxis, yaxis} = drawing._fullLayout;
    let whole = true;
    // Of a thousand marks nearly all are there already, as they are wanted.
    const there = new Map(Array.from(over.children, (mark) => [mark.dataset.key, mark])), made = [];
    const at = ([x, y]) => {
      const point = [within(xaxis, x), within(yaxis, y)];
      // To where somebody has zoomed, nobody misses what lies elsewhere.
      if (point.includes(null) && xaxis.autorange !== false && yaxis.autorange !== false) whole = false;
      return point.includes(null) ? null : point;
    };
    for (const {at: where, line, colour} of wanted) {
      const points = (line || (where ? [where] : [])).map(at).filter((each) => each);
      if (!line && !where) whole = false;
      if (!points.length) continue;
      const [x, y] = points[0], key = `${where ? where[0] : ""} ${points.join(" ")} ${colour}`;
      if (there.delete(key)) continue;
      const mark = document.createElementNS(over.namespaceURI, line ? "polyline" : "circle");
      mark.dataset.key = key;
      const looks = line ? {points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 2} : {cx: x, cy: y, r: 3, fill: colour};
      for (const [key, value] of Object.entries(looks)) mark.setAttribute(key, value);
      if (where) mark.dataset.trial = where[0];
      made.push(mark);
    }
    for (const mark of there.values()) mark.remove();
    over.append(...made);
    return whole;
  }

  // Somebody has zoomed, or the figure has been drawn anew.
  function plotted(name, had) {
    for (const [trial, row] of had.inside || []) if (had.rows.get(trial) === row) had.rows.delete(trial);
    had.inside = null;
    if (had.drawing.isConnected) paint(name, had.drawing, had);
  }

  // The figure is about to be drawn with all that was put over it.
  function drawn(name) {
    const had = came.get(name);
    if (had) had.inside = Array.from(had.rows);
  }

  window.tuneAhead = {put, drawn};
})();
