// Keeps an open page up to date: asks what has changed, and puts that into the table, the figures and the state.
//
// A look costs time of the server and of the browser, which a search on the same machine lacks. So after a look the
// page rests for many times as long as it took: small looks (state, table) at least every two seconds, each figure and
// the sections by what they took; a change after a rest is there at once. Over figures that rest is put what the rows of
// the table tell (see ahead.js); of others it is said how old they are.
(function () {
  const SOON = 1000, LATE = 1500;  // milliseconds between two small looks
  // Rests, in times of what a small look took, or drawing a figure: one that lacks something that cannot be put over it,
  // one that says how old it is, and one over which all that came has been put. The longest in milliseconds.
  const rests = {SMALL: 60, LACKING: 120, LARGE: 120, WHOLE: 400, LONGEST: 60000};
  const SECTION = 45;  // milliseconds that a section costs server and browser, which is drawn out of sight of any clock
  const OLD = 4000;  // milliseconds from which on it is said how old a figure is
  const AHEAD = ["history", "curves"];
  const OTHERS = '[id*="section-mark"]:not([id*="overview"])';  // sections that show more than the best trial

  const page = {where: null, revision: 0, state: "", log: "", overview: "", stale: false, selection: [], by: "last", filter: "", options: {}};
  // By name what is drawn, {key, kind, figure}, when it was and how long that took, {drawn, cost}; when something came
  // that it does not show, {since}; whether that is more than can be put over it, {lacks}.
  const figures = new Map();
  const stored = new Map();  // by name: the key that the server has given last
  let sectionsUntil = 0, timer = null, asking = false, missed = 0;

  const dash = () => window.dash_clientside;
  const shared = () => window.tunePage;

  function watch(where, revision) {
    Object.assign(page, {where, revision, state: "", log: "", overview: "", stale: false});
    missed = 0;
    sectionsUntil = 0;
    for (const had of figures.values()) had.drawn = -Infinity;
    next(50);
    return null;
  }

  // The figures that the server has drawn because something was chosen: what they look like is not known here.
  function noted(keys, others, ids, otherIds) {
    const take = (kind, keys, ids) => keys.forEach((key, at) => {
      const name = ids[at].name;
      if (!key || stored.get(name) === key) return;
      stored.set(name, key);
      figures.set(name, {key, kind, figure: null, drawn: -Infinity, cost: 0, since: null, lacks: false});
      window.tuneAhead.drawn(name);
    });
    take("figure", keys, ids);
    take("follow", others, otherIds);
    if (Object.values(wordsThere()).includes("")) next(0);  // a tab has come
    return null;
  }

  // What was chosen on the page, as the address has it.
  function choose(filter, selection, by, options, ids) {
    const chosen = {};
    ids.forEach(({name, of}, at) => { (chosen[name] = chosen[name] || {})[of] = options[at]; });
    Object.assign(page, {selection: selection || [], by: by || "last", filter: filter || "", options: chosen});
  }

  // All rows have come, as of a revision.
  function behind(revision) {
    page.revision = Math.min(page.revision, revision);
  }

  function seen(place) {
    const box = place && place.getBoundingClientRect();
    return box && box.width > 0 && box.bottom > 0 && box.top < window.innerHeight;
  }

  // Whether a figure has rested.
  function due(had, now) {
    const rest = had.lacks ? rests.LACKING : had.since === null ? rests.WHOLE : rests.LARGE;
    return now >= had.drawn + Math.min(rests.LONGEST, rest * had.cost);
  }

  // The figures that somebody sees and that have rested, with what they are drawn from.
  function wanted(now) {
    const found = {};
    for (const [name, had] of figures) {
      const place = document.getElementById(name);
      if (!place) figures.delete(name), stored.delete(name);
      else if (seen(place) && due(had, now)) found[name] = told(name, had);
    }
    return found;
  }

  // The places of words that somebody sees or that are empty yet, with the marks of what stands there.
  function wordsThere() {
    const places = Object.keys(lines).map((name) => document.getElementById(name)).filter((place) => place);
    return Object.fromEntries(places.filter((place) => !place.dataset.mark || seen(place)).map((place) => [place.id, place.dataset.mark || ""]));
  }

  const told = (name, had) => ({...(page.options[name] || {}), key: had.key, known: had.figure !== null});

  function next(wait) {
    window.clearTimeout(timer);
    timer = window.setTimeout(look, wait);
  }

  const there = () => page.where && document.getElementById("status");

  // Milliseconds that the browser takes from now on for what is to be done and shown.
  function busy(begin) {
    return new Promise((done) => {
      const afterwards = (then) => { const {port1, port2} = new MessageChannel(); port1.onmessage = then; port2.postMessage(0); };
      afterwards(() => {
        const made = window.performance.now() - begin;
        window.requestAnimationFrame(() => {
          const frame = window.performance.now();
          afterwards(() => done(made + window.performance.now() - frame));
        });
      });
    });
  }

  async function look() {
    if (!there() || document.hidden || asking) return;
    asking = true;
    const drawn = wanted(window.performance.now());
    const {where, by, filter, selection} = page;
    const asked = {
      ...where, by, filter, selection, revision: page.revision, state: page.state, log: page.log,
      overview: page.overview, words: wordsThere(),
      theme: document.documentElement.getAttribute("data-mantine-color-scheme") || "light", figures: drawn,
    };
    let wait = SOON;
    try {
      const answer = await window.fetch("/live", {
        method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(asked),
      });
      if (!answer.ok) throw new Error(answer.statusText);
      const news = answer.status === 204 ? null : await answer.json();
      missed = 0;
      if (news && where === page.where && there()) wait = await take(news, asked);
      else if (there()) sections(true);
    } catch (error) {
      missed += 1;
      wait = Math.min(30000, SOON * 2 ** missed);
      if (missed === 3) silent();
    } finally {
      asking = false;
    }
    tellAges();
    if (there()) next(wait);
  }

  // Put what was told into the page; return the milliseconds until the next look.
  async function take(news, asked) {
    const begin = window.performance.now();
    if (news.state) state(news.state);
    if (news.log !== undefined) log(news);
    for (const [name, words] of Object.entries(news.words || {})) say(name, words);
    if (news.overview !== undefined) page.overview = news.overview;
    if (news.choices) choices(news);
    const changed = page.where.trial === null ? news.revision !== asked.revision : news.changed;
    if (changed && (news.overview !== undefined || document.querySelector(OTHERS))) page.stale = true;
    const shown = new Set();  // figures that show all that has come, though they were not drawn
    if (asked.by === page.by && asked.filter === page.filter) {  // else what was chosen meanwhile asks for the same again
      const rows = news.rows ? shared().merge(news.rows, news.passing) : [];
      for (const name of AHEAD) {
        const had = figures.get(name);
        if (!had || !rows.length || !seen(document.getElementById(name))) continue;
        const {metric, mode} = news.rows, chosen = page.selection.length > 0;
        const told = {options: page.options[name] || {}, metric: asked.by === "last" ? metric : null, mode, chosen};
        const whole = window.tuneAhead.put(name, rows, told);
        had.lacks = had.lacks || whole === false;
        if (whole) shown.add(name);
      }
      if (news.said !== undefined) dash().set_props("filter-said", {children: news.said});
      page.revision = news.revision;
    }
    for (const [name, had] of figures) {
      if (asked.figures[name]) had.since = null, had.lacks = false;  // it is drawn below
      else if (changed && !shown.has(name)) had.since = had.since === null ? begin : had.since;
    }
    const small = news.ms + await busy(begin);
    sections(news.running);
    if (Object.keys(asked.figures).length) {
      const second = window.performance.now();
      for (const [name, change] of Object.entries(news.figures || {})) redraw(name, change, asked);
      const cost = news.ms + await busy(second), drawn = window.performance.now();
      for (const name of Object.keys(asked.figures)) {
        const had = figures.get(name);
        if (had) Object.assign(had, news.running ? {drawn, cost} : {drawn: -Infinity, cost: 0});
      }
      return SOON;
    }
    const now = window.performance.now();
    const lacking = Array.from(figures).some(([name, had]) => had.lacks && due(had, now) && seen(document.getElementById(name)));
    return lacking ? 0 : Math.min(LATE, Math.max(SOON, rests.SMALL * small));
  }

  // Have the sections drawn anew where something came that they do not show.
  function sections(running) {
    if (!page.stale || (running && window.performance.now() < sectionsUntil)) return;
    page.stale = false;
    dash().set_props("revision", {data: page.revision});
    const cost = SECTION * Math.max(1, document.querySelectorAll('[id*="section-mark"]').length);
    sectionsUntil = window.performance.now() + rests.LARGE * cost;
  }

  function redraw(name, change, asked) {
    const had = figures.get(name);
    if (!had || had.key !== asked.figures[name].key) return;  // it has been drawn anew meanwhile
    if (JSON.stringify(told(name, had)) !== JSON.stringify(asked.figures[name])) return void (had.lacks = true);
    const id = {type: had.kind, name};
    had.since = change.age ? window.performance.now() - 1000 * change.age : null;
    if (change.whole || change.changes) {
      const figure = change.whole || changed(had.figure, change.changes);
      figures.set(name, {...had, key: change.key, figure});
      window.tuneAhead.drawn(name);
      dash().set_props(id, {figure: zoomed(copied(figure), name), style: change.style});
    }
    dash().set_props({type: had.kind + "-said", name}, {children: change.summary});
  }

  // Say below a figure how old it is.
  function tellAges() {
    for (const [name, had] of figures) {
      const place = document.getElementById(name), word = place && place.closest("figure").querySelector(".age");
      if (!word) continue;
      const age = had.since === null ? 0 : window.performance.now() - had.since;
      const told = age < OLD ? "" : `as of ${Math.round(age / 1000)} s ago`;
      if (word.textContent !== told) word.textContent = told;
    }
  }

  // A figure with the parts of its axes that somebody has zoomed to: Dash draws anew after a zoom, so that Plotly does
  // not know any more whose they are.
  function zoomed(figure, name) {
    const drawing = document.getElementById(name).querySelector(".js-plotly-plot");
    for (const [key, now] of Object.entries((drawing && drawing.layout) || {})) {
      const axis = figure.layout[key] || {};
      if (!/^[xy]axis\d*$/.test(key) || now.autorange !== false || !now.range || axis.range) continue;
      if ((axis.type || now.type) === now.type) figure.layout[key] = {...axis, range: now.range.slice(), autorange: false};
    }
    return figure;
  }

  // What Plotly may write into, as a zoom or what was hidden: the lists are not copied.
  function copied(value) {
    if (Array.isArray(value)) return value.some((each) => each && typeof each === "object") ? value.map(copied) : value;
    if (!value || Object.getPrototypeOf(value) !== Object.prototype || value.bdata) return value;
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, copied(each)]));
  }

  // The figure with some of its parts changed; what has not changed is the same object as before.
  function changed(figure, changes) {
    const mine = new Set();
    const copy = (value) => {
      if (mine.has(value)) return value;
      const made = Array.isArray(value) ? value.slice() : {...value};
      mine.add(made);
      return made;
    };
    const root = copy(figure);
    for (const [what, path, ...rest] of changes) {
      if (what === "traces") {
        root.data = rest[0].map((each) => (typeof each === "number" ? root.data[each] : each));
        continue;
      }
      let place = root;
      for (const key of path.slice(0, -1)) place = place[key] = copy(place[key]);
      const last = path[path.length - 1];
      if (what === "set") place[last] = rest[0];
      else {
        const [first, removed, cells] = rest;
        const list = shared().cells(place[last]);
        place[last] = list.slice(0, first).concat(shared().unpacked(cells), list.slice(first + removed));
      }
    }
    return root;
  }

  function state([word, told, sign, colour]) {
    page.state = word + told;
    const name = document.createElement("span");
    name.textContent = sign + " " + word;
    Object.assign(name.style, {borderLeft: "0.3rem solid " + colour, paddingLeft: "0.4rem"});
    document.getElementById("status").replaceChildren(name, told);
  }

  // By the place of words: the element of a line of it, whose pieces are texts, some of which lead somewhere.
  const lines = {
    facts: ([value, name]) => box("div", "fact", box("div", "value", piece(value)), box("div", "name", piece(name))),
    insights: (pieces) => box("li", "", ...pieces.map(piece)),
  };

  function box(kind, name, ...inside) {
    const made = document.createElement(kind);
    made.className = name;
    made.append(...inside);
    return made;
  }

  function piece([text, leads]) {
    if (leads === null) return text;
    const link = box("a", "", text);
    link.href = leads;
    return link;
  }

  function say(name, words) {
    const place = document.getElementById(name);
    if (!place) return;
    place.dataset.mark = words.mark;
    place.replaceChildren(...words.lines.map(lines[name]));
  }

  // Metrics that nobody had reported before can be chosen, also where the page was opened before they came.
  function choices({metrics, choices}) {
    page.where.metrics = metrics;
    for (const [id, data] of choices) {
      const place = typeof id === "string" ? id : JSON.stringify(id, Object.keys(id).sort());
      if (document.getElementById(place)) dash().set_props(id, {data});
    }
  }

  function log(told) {
    page.log = told.mark;
    const place = document.getElementById("log");
    const atEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 4;
    place.textContent = told.log;
    if (atEnd) place.scrollTop = place.scrollHeight;
  }

  function silent() {
    const place = document.getElementById("status");
    place.append(" · the server of this page does not answer: it ends with its run. To see it again: tune-platform dashboard " + page.where.name);
  }

  // A page that nobody sees asks for nothing.
  document.addEventListener("visibilitychange", () => document.hidden || next(0));
  window.tuneLive = {watch, noted, choose, behind, rests};
})();
