/** tag.mjs: the tag as a module. */

import { takeOver } from "./takeover.ts";
import type { Options, Pintrk } from "./types.ts";

export type * from "./types.ts";
export type * from "./wire.gen.ts";

/**
 * Starts the tag and gives `window.pintrk`; where it runs already, that one. Nothing happens before, so that a module
 * that imports this one can be loaded on a server.
 *
 * @param collector your collector's address, by default that of this module: `https://collect.shop.example/`
 */
export const connect = (collector: string = import.meta.url, options: Options & { site?: string } = {}): Pintrk =>
  takeOver(collector, options);
