/** tag.js: takes the place of the page's `pintrk` stub, carries out what was queued, and then each call as it comes. */

import { client } from "./client.ts";
import { log } from "./page.ts";

type Act = (...args: unknown[]) => unknown;

interface Pintrk {
  (command: string, ...args: unknown[]): unknown;
  /** Calls made before tag.js was there: arrays or arguments objects. */
  queue?: ArrayLike<unknown>[];
  version?: string;
  /** Set by tag.js: it is running. */
  live?: boolean;
}

const home = window as unknown as { pintrk?: Pintrk };
const stub = home.pintrk;

if (!stub?.live) {
  const { leave, ...known } = client();
  const commands = new Map<string, unknown>(Object.entries(known));

  /** Carries out one call. Whatever goes wrong is logged: the page must not suffer. */
  const run = (call: ArrayLike<unknown>): unknown => {
    try {
      const [name, ...args] = Array.from(call);
      const act = commands.get(String(name).trim().toLowerCase()) as Act | undefined;
      if (act) return act(...args);
      log(`no such command: ${name}. Known are ${[...commands.keys()]}.`);
    } catch (fault) {
      log(fault);
    }
    return undefined;
  };

  const pintrk: Pintrk = (...call) => run(call);
  home.pintrk = Object.assign(pintrk, stub, { live: true });
  addEventListener("pagehide", leave);
  addEventListener("visibilitychange", () => document.visibilityState === "hidden" && leave());

  const queue = pintrk.queue ?? [];
  queue.splice(0).forEach(run);
  queue.push = (...calls) => (calls.forEach(run), 0); // tag managers go on writing to the queue they know
}
