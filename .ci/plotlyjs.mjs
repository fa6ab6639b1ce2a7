// Builds `tune_platform/plots/plotly.min.js`: plotly.js with the kinds of traces that our figures have, and no others.
// The whole one takes a browser five times as long to load; and what is drawn by the graphics card is compiled here
// (`strict`), so that the page's content security policy need not allow `eval`. In an empty folder:
//
//     npm install --ignore-scripts plotly.js@4.1.1 esbuild@0.28.2 esbuild-plugin-glsl@1.4 esbuild-plugin-environment@0.5 \
//         esbuild-plugin-inline-css@0.0.1 buffer@6 stream-browserify@3 to-px@1.0.1
//     cp .../.ci/plotlyjs.mjs . && node plotlyjs.mjs .../tune_platform/plots/plotly.min.js

import { createRequire } from "module";
import { build } from "esbuild";

const require = createRequire(import.meta.url);
const { glsl } = require("esbuild-plugin-glsl");
const { environmentPlugin } = require("esbuild-plugin-environment");
const inlineCss = require("esbuild-plugin-inline-css");

const version = require("plotly.js/package.json").version;
const traces = {
  scatter: null, // always there
  bar: "lib/bar",
  contour: "lib/contour",
  parcoords: "src/traces/parcoords/strict",
  scattergl: "src/traces/scattergl/strict",
  table: "lib/table",
};
const files = Object.values(traces).filter((each) => each).map((each) => `require("plotly.js/${each}")`);

// The options are those of plotly.js itself (its esbuild-config.js).
await build({
  stdin: {
    contents: `const Plotly = require("plotly.js/lib/core"); Plotly.register([${files}]); module.exports = Plotly;`,
    resolveDir: process.cwd(),
  },
  format: "iife",
  globalName: "Plotly",
  bundle: true,
  minify: true,
  plugins: [inlineCss(), glsl({ minify: true }), environmentPlugin({ NODE_DEBUG: false })],
  alias: { regl: "@plotly/regl", stream: "stream-browserify" },
  define: { global: "window", "define.amd": "false" },
  target: "es2016",
  legalComments: "eof",
  banner: {
    js:
      `/* plotly.js ${version}, strict, with the traces ${Object.keys(traces).join(" ")}; made by .ci/plotlyjs.mjs.\n` +
      "   Copyright 2012-2026, Plotly, Inc. All rights reserved. Licensed under the MIT license. */",
  },
  outfile: process.argv[2],
});
