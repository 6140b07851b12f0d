/** Runs the files that are served, each in a window of its own. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import vm from "node:vm";

const STATIC = new URL("../../../src/pinstream/collect/static/", import.meta.url);

/** The text of a built file. */
export const served = (name: string): string => readFileSync(new URL(name, STATIC), "utf8");

/** Hashes in a microtask, so that a test need not wait for another thread. */
export const quick = {
  getRandomValues: (bytes: Uint8Array<ArrayBuffer>): Uint8Array => crypto.getRandomValues(bytes),
  subtle: {
    digest: async (_: string, bytes: Uint8Array): Promise<ArrayBuffer> =>
      new Uint8Array(createHash("sha256").update(bytes).digest()).buffer,
  },
};

export class Frame {
  readonly document = Object.assign(new EventTarget(), { cookie: "", referrer: "", currentScript: null as unknown });
  readonly window: Record<string, any>;

  constructor(globals: Record<string, unknown> = {}) {
    this.window = vm.createContext({ document: this.document, setTimeout, ...globals });
    this.window.window = this.window;
  }

  /** Runs `text`, as a script element at `src` with these data attributes would. */
  run(text: string, dataset: Record<string, string> = {}, src = "https://t.shop.example/x/script.js"): void {
    this.document.currentScript = { dataset, src };
    vm.runInContext(text, this.window);
    this.document.currentScript = null;
  }
}
