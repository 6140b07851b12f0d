/** Types in one file each, as those need them who take a copy of a module from the collector. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { execFileSync } from "node:child_process";
import { join } from "node:path";

const here = (path) => new URL(path, import.meta.url).pathname;
const TAG = ["wire.gen", "types", "index"];

/** What is served -> the modules whose declarations it holds, one after the other, without the imports between them. */
const FILES = {
  "tag.d.ts": TAG,
  "tag.d.mts": TAG,
  "frameworks/react.d.ts": ["embed", "frameworks/react"],
  "frameworks/vue.d.ts": ["embed", "frameworks/vue"],
};

/** Each of FILES -> its text. */
export function declarations() {
  const folder = mkdtempSync(join(tmpdir(), "pinstream-"));
  try {
    const flags = "--declaration --emitDeclarationOnly --noEmit false --outDir".split(" ");
    execFileSync(here("node_modules/.bin/tsc"), ["-p", here("tsconfig.json"), ...flags, folder], { stdio: "inherit" });
    const text = (part) => readFileSync(join(folder, "src", `${part}.d.ts`), "utf8");
    const between = /^(import|export) .*from "\..*";\n|^export \{.*\};\n/gm;
    return Object.fromEntries(
      Object.entries(FILES).map(([name, parts]) => [name, parts.map(text).join("\n").replace(between, "")]),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}
