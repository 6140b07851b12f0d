/** sandbox.js: the tag for a place without a page, such as a storefront's pixel sandbox. It sets `pinstream`. */

import { createClient as create } from "./client.ts";
import type { Place } from "./place.ts";
import type { Options, Pintrk } from "./types.ts";

/** What a sandbox can offer. What is missing is done without. */
export interface Surroundings extends Options {
  /** Where events are posted to: `https://collect.shop.example/p/i`. */
  endpoint: string;
  fetch?: Place["fetch"];
  /** ms since 1970. */
  now?: () => number;
  /** The address of the page that events are about, and of the one before. */
  url?: () => string;
  referrer?: () => string;
  /** The page's cookies, `a=1; b=2`. */
  cookie?: () => string;
  /** Writes one cookie, as `document.cookie = ...` does. */
  setCookie?: (cookie: string) => void;
  /** Does the visitor's browser ask not to be tracked? */
  optedOut?: () => boolean;
  /** What was kept when the sandbox was last here, and how to keep it: an empty value removes the key. */
  kept?: Record<string, string>;
  keep?: (key: string, value: string) => void;
}

/** A client of its own: `pintrk`, and `flush` for when the sandbox is about to end. */
export function createClient(around: Surroundings): Pintrk & { flush(): void } {
  const { endpoint, keep = () => undefined, kept = {}, now = Date.now } = around;
  let flush = (): void => undefined;
  const place: Place = {
    origin: "null", // the sandbox's cookies are not the page's
    fetch: (url, how) => (around.fetch ?? fetch)(url, how),
    location: {
      get href() {
        return around.url?.() ?? "";
      },
    },
    document: {
      get referrer() {
        return around.referrer?.() ?? "";
      },
      get cookie() {
        return around.cookie?.() ?? "";
      },
      set cookie(text: string) {
        around.setCookie?.(text);
      },
    },
    navigator: {
      get globalPrivacyControl() {
        return around.optedOut?.() ?? false;
      },
    },
    localStorage: new Proxy(kept, {
      set(target, key, value: string) {
        keep(String(key), value);
        return Reflect.set(target, key, value);
      },
      deleteProperty(target, key) {
        keep(String(key), "");
        return Reflect.deleteProperty(target, key);
      },
    }),
    addEventListener: (type, leave) => type === "pagehide" && (flush = leave as () => void),
  };
  const client = create(place, endpoint, { ...around }, now);
  return Object.assign(client, { flush: () => flush() });
}
