/** The types that are served are those that were tested, and no standard event is left out of the test. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const js = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const fold = (name: string): string => name.toLowerCase().replace(/[_ -]/g, "");

test("every standard event has a wrong field in the type test", () => {
  const union = /StandardEvent =([^;]*);/.exec(readFileSync(js("src/wire.gen.ts"), "utf8"))?.[1] ?? "";
  const known = [...union.matchAll(/"(\w+)"/g)].map(([, name]) => fold(name!));
  const refused = [
    ...readFileSync(js("test/types.ts"), "utf8").matchAll(/@ts-expect-error.*\npintrk\("track", "([^"]+)", \{ (?:valeu|query)/g),
  ].map(([, name]) => fold(name!));
  assert.ok(known.length > 20);
  assert.deepEqual([...new Set(refused)].sort(), known.sort());
});

test("tag.d.ts alone gives a wrong field away", () => {
  const folder = mkdtempSync(join(tmpdir(), "pinstream-"));
  try {
    copyFileSync(js("../src/pinstream/collect/static/tag.d.ts"), join(folder, "tag.d.mts"));
    const page = (field: string): string => {
      writeFileSync(
        join(folder, "page.mts"),
        `import { connect } from "./tag.mjs";\nconnect("https://t.shop.example/")("track", "checkout", { ${field}: 3 });\n`,
      );
      try {
        const flags = ["--ignoreConfig", "--noEmit", "--strict", "--module", "nodenext", "--target", "es2022"];
        execFileSync(js("node_modules/.bin/tsc"), [...flags, join(folder, "page.mts")], { encoding: "utf8" });
        return "";
      } catch (fault) {
        return (fault as { stdout: string }).stdout;
      }
    };
    assert.equal(page("value"), "");
    assert.match(page("valeu"), /valeu/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
