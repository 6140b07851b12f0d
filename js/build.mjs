/**
 * Builds what the collector serves: every entry of `src` that there is. `node build.mjs` writes the files, `--check`
 * fails when a committed file is not what the source gives, `--size` prints the sizes (the last line is JSON),
 * `--tests` bundles the tests for node's test runner.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { minify } from "terser";
import { declarations } from "./declarations.mjs";

/** A path beside this file. */
const here = (path) => new URL(path, import.meta.url).pathname;
const OUTPUT = here("../src/pinstream/collect/static/");

/** Bytes after gzip that stop the build, by the file's name or its folder's. The goal for tag.js is 2,048. */
const MOST_GZ_BYTES = { "tag.js": 2560, "stub.js": 300, "badge.js": 500, "adapters/": 600, "frameworks/": 500 };

const TARGET = { target: "es2021", ecma: 2020 }; // terser has no newer name for it
const BANNER = "/*! pinstream, Apache-2.0 */\n";

const scripts = (folder) =>
  existsSync(here(`src/${folder}`))
    ? readdirSync(here(`src/${folder}`)).filter((name) => name.endsWith(".ts")).map((name) => folder + name)
    : [];

/**
 * What is served -> its source, how it is wrapped, and whether it tells `pintrk.said` what it decides. Frameworks are
 * modules that leave their framework outside.
 */
const ENTRIES = {
  "tag.js": { source: "tag.ts", format: "iife" },
  "tag.mjs": { source: "index.ts", format: "esm" },
  "mirror.js": { source: "mirror.ts", format: "iife", tells: true },
  "debug.js": { source: "debug.ts", format: "esm", tells: true },
  "badge.js": { source: "badge.ts", format: "iife" },
  "sandbox.js": { source: "sandbox.ts", format: "iife", globalName: "pinstream", tells: true },
  ...Object.fromEntries(
    scripts("adapters/").map((source) => [source.replace(/ts$/, "js"), { source, format: "iife" }]),
  ),
  ...Object.fromEntries(
    scripts("frameworks/").map((source) => [
      source.replace(/ts$/, "js"),
      { source, format: "esm", packages: "external" },
    ]),
  ),
};

/** One file's text: bundled by esbuild, made small by terser, which gains another 4 %. */
async function script({ source, tells = false, ...how }) {
  const { outputFiles } = await build({
    bundle: true,
    minifySyntax: true,
    target: TARGET.target,
    legalComments: "none",
    define: { DEBUG: String(tells) },
    write: false,
    entryPoints: [here(`src/${source}`)],
    ...how,
  });
  const compress = { passes: 3, unsafe_arrows: true, directives: false };
  const { code } = await minify(outputFiles[0].text, {
    ecma: TARGET.ecma,
    module: how.format === "esm",
    compress,
    mangle: { toplevel: !how.globalName },
  });
  return code.replace(/^(\(\(\)=>\{)?"use strict";/, "$1");
}

/** The inline stub as a page holds it. Its ES5 stays, and runs in whatever finds it. */
async function stub() {
  const { code } = await minify(readFileSync(here("src/stub.js"), "utf8"), { ecma: 5 });
  return code;
}

/** Every file that is built -> its text. */
async function built() {
  const files = {};
  for (const [name, entry] of Object.entries(ENTRIES)) {
    if (existsSync(here(`src/${entry.source}`))) files[name] = await script(entry);
  }
  for (const [name, text] of Object.entries(declarations())) files[name] = BANNER + text;
  return { ...files, "stub.js": await stub() };
}

/** Sizes after gzip by file. */
function sizes(files) {
  const scripts = Object.entries(files).filter(([name]) => !/\.d\.m?ts$/.test(name));
  return Object.fromEntries(scripts.map(([name, text]) => [name, gzipSync(text, { level: 9 }).length]));
}

const under = (folder, found) =>
  Object.fromEntries(
    Object.entries(found)
      .filter(([name]) => name.startsWith(folder))
      .map(([name, bytes]) => [name.slice(folder.length).replace(/\.js$/, ""), bytes]),
  );

function complain(found) {
  for (const [name, bytes] of Object.entries(found)) {
    const most = MOST_GZ_BYTES[name] ?? MOST_GZ_BYTES[name.replace(/[^/]+$/, "")];
    if (bytes > most) throw new Error(`${name} has ${bytes} bytes gzipped; at most ${most} are allowed.`);
  }
}

async function tests() {
  const files = readdirSync(here("test")).filter((name) => name.endsWith(".test.ts"));
  await build({
    entryPoints: files.map((name) => here(`test/${name}`)),
    bundle: true,
    platform: "node",
    format: "esm",
    outdir: here("build/test"),
    outExtension: { ".js": ".mjs" },
    define: { DEBUG: "true" },
  });
}

const asked = process.argv[2];
if (asked === "--tests") await tests();
else {
  const files = await built();
  const found = sizes(files);
  if (asked === "--size") {
    console.error(Object.entries(found).map(([name, bytes]) => `${String(bytes).padStart(6)} ${name}`).join("\n"));
    const report = {
      core_gz_bytes: found["tag.js"],
      stub_gz_bytes: found["stub.js"],
      adapters: under("adapters/", found),
      frameworks: under("frameworks/", found),
      sandbox_gz_bytes: found["sandbox.js"],
      module_gz_bytes: found["tag.mjs"],
      mirror_gz_bytes: found["mirror.js"],
      debug_gz_bytes: found["debug.js"],
      badge_gz_bytes: found["badge.js"],
    };
    console.log(JSON.stringify(report));
  }
  complain(found);
  for (const [name, text] of Object.entries(asked === "--size" ? {} : files)) {
    const path = OUTPUT + name;
    if (asked !== "--check") {
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, text);
    } else if (!existsSync(path) || readFileSync(path, "utf8") !== text) {
      throw new Error(`${name} is not built from js/src: npm run build`);
    }
  }
}
