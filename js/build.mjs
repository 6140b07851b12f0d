/**
 * Builds the tag. `node build.mjs` writes the file that the collector serves, `--check` fails when the committed file
 * is not what the source gives, `--size` prints sizes as JSON, `--tests` bundles the tests for node's test runner.
 */
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

/** A path beside this file. */
const here = (path) => new URL(path, import.meta.url).pathname;
const OUTPUT = here("../src/pinstream/collect/static/tag.js");
const CORE_GZ_MAX = 2560;

async function tag() {
  const { outputFiles } = await build({
    entryPoints: [here("src/tag.ts")],
    bundle: true,
    minify: true,
    format: "iife",
    target: "es2020",
    banner: { js: "/*! pinstream, Apache-2.0 */" },
    legalComments: "none",
    write: false,
  });
  return outputFiles[0].text;
}

/** In node's tests another module stands in for the page. */
const withoutPage = {
  name: "without page",
  setup: ({ onResolve }) => onResolve({ filter: /page\.ts$/ }, () => ({ path: here("test/page.ts") })),
};

async function tests() {
  const files = readdirSync(here("test")).filter((name) => name.endsWith(".test.ts"));
  await build({
    entryPoints: files.map((name) => here(`test/${name}`)),
    bundle: true,
    platform: "node",
    format: "esm",
    outdir: here("build/test"),
    outExtension: { ".js": ".mjs" },
    plugins: [withoutPage],
  });
}

const asked = process.argv[2];
if (asked === "--tests") await tests();
else {
  const text = await tag();
  const size = gzipSync(text, { level: 9 }).length;
  if (size > CORE_GZ_MAX) throw new Error(`tag.js has ${size} bytes gzipped; at most ${CORE_GZ_MAX} are allowed.`);
  if (asked === "--size") console.log(JSON.stringify({ core_bytes: text.length, core_gz_bytes: size }));
  else if (asked !== "--check") writeFileSync(OUTPUT, text);
  else if (readFileSync(OUTPUT, "utf8") !== text) throw new Error("tag.js is not built from js/src: npm run build");
}
