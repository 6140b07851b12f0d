/** Takes the place of the page's `pintrk` stub: carries out what was queued, and then each call as it comes. */

import { createClient } from "./client.ts";
import type { Place } from "./place.ts";
import type { Options, Pintrk } from "./types.ts";

/**
 * @param collector the address beside which events are taken
 * @param options what the site says; with its tag id the tag is loaded at once
 * @returns `window.pintrk`; where the tag runs already, that one
 */
export function takeOver(collector: string, options: Options & { site?: string } = {}): Pintrk {
  const home = window as unknown as Place & { pintrk?: Pintrk };
  const stub = home.pintrk;
  if (stub?.live) return stub;
  const client = createClient(home, new URL("p/i", collector).href, options);
  const pintrk = (home.pintrk = Object.assign(client, stub, { live: true }));
  if (DEBUG) pintrk.said = [];
  if (options.site) pintrk("load", options.site);
  const run = (call: unknown): unknown => pintrk.apply(null, Object(call));
  const queue = (pintrk.queue ??= []);
  queue.splice(0).forEach(run);
  queue.push = (...calls) => (calls.forEach(run), 0); // tag managers go on writing to the queue they know
  return pintrk;
}
