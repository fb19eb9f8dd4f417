#!/usr/bin/env bash
# Make leaderboard/site/vendor again: the parts of Tabulator and Observable Plot that the site uses, Inter, and licences.
# Needs node and npm. Versions are exact, so the same files come out; change them here and nowhere else.
set -euo pipefail
vendor="$(cd "$(dirname "$0")/.." && pwd)/leaderboard/site/vendor"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y >/dev/null
npm install --silent --no-fund tabulator-tables@6.5.3 @observablehq/plot@0.6.17 @fontsource-variable/inter@5.3.0 esbuild@0.28.2
cat >tabulator.mjs <<'JS'
import { Tabulator, FilterModule, FormatModule, InteractionModule, ResizeTableModule, ResponsiveLayoutModule, SortModule } from "tabulator-tables";
Tabulator.registerModule([FilterModule, FormatModule, InteractionModule, ResizeTableModule, ResponsiveLayoutModule, SortModule]);
window.Tabulator = Tabulator;
JS
cat >plot.mjs <<'JS'
import { dot, line, plot, pointer, pointerY, ruleX, ruleY, text, tip } from "@observablehq/plot";
window.Plot = { dot, line, plot, pointer, pointerY, ruleX, ruleY, text, tip };
JS
for name in tabulator plot; do
  npx esbuild "$name.mjs" --bundle --minify --format=iife --legal-comments=none --metafile="$name.json" --log-level=warning --outfile="$vendor/$name.min.js"
  # the licence of every package that is inside
  node -e '
    const { inputs } = JSON.parse(require("fs").readFileSync(process.argv[1]));
    const names = [...new Set(Object.keys(inputs).map((p) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(p)?.[1]).filter(Boolean))].sort();
    for (const name of names) {
      const folder = `node_modules/${name}/`, { version, license } = require(`./${folder}package.json`);
      const file = require("fs").readdirSync(folder).find((f) => /^licen[cs]e/i.test(f));
      console.log(`${name} ${version} (${license})\n\n${file ? require("fs").readFileSync(folder + file, "utf8").trim() : ""}\n\n---\n`);
    }' "$name.json" >"$vendor/LICENSE-$name.txt"
done
sed 's#/\*\# sourceMappingURL.*##' node_modules/tabulator-tables/dist/css/tabulator_simple.min.css >"$vendor/tabulator.min.css"
cp node_modules/@fontsource-variable/inter/files/inter-latin-wght-normal.woff2 "$vendor/inter.woff2"
cp node_modules/@fontsource-variable/inter/LICENSE "$vendor/LICENSE-inter.txt"
