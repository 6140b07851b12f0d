/** The types of tag.mjs in one file, as pages that load it from the collector need them. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { execFileSync } from "node:child_process";
import { join } from "node:path";

const here = (path) => new URL(path, import.meta.url).pathname;
const PARTS = ["wire.gen", "types", "index"];

/** The declarations of PARTS, one after the other, without the imports between them. */
export function declarations() {
  const folder = mkdtempSync(join(tmpdir(), "pinstream-"));
  try {
    const flags = "--declaration --emitDeclarationOnly --noEmit false --outDir".split(" ");
    execFileSync(here("node_modules/.bin/tsc"), ["-p", here("tsconfig.json"), ...flags, folder], { stdio: "inherit" });
    const text = PARTS.map((part) => readFileSync(join(folder, "src", `${part}.d.ts`), "utf8")).join("\n");
    return text.replace(/^(import|export) .*from ".*";\n/gm, "");
  } finally {
    rmSync(folder, { recursive: true });
  }
}
