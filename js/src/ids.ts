/** Ids and identifiers: UUIDs, normalising, hashing. */

import type { Identity } from "./types.ts";

/** Two hex digits a byte. */
const hex = (bytes: Uint8Array): string => [...bytes].map((byte) => (byte + 256).toString(16).slice(1)).join("");

/** As UTF-8. */
export const utf8 = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text);

/** A UUIDv7, which sorts by time; `now` in ms. crypto.randomUUID is missing on pages without TLS. */
export const uuid = (now: number): string =>
  `0${now.toString(16)}${hex(crypto.getRandomValues(new Uint8Array(9)))}`.replace(
    /(.{8})(....)(...)(...)/,
    "$1-$2-7$3-8$4-",
  );

/** What shops have where they know nothing, and templates leave behind. The server refuses it, and all beside it. */
const LEFTOVER = /^(0|undefined|null|none|n\/a|nan|nil|.not set.)$|.*[<{[].*/;
const BUT_LETTERS_AND_DIGITS = /[^\p{L}\p{N}]/gu;

/**
 * The identifiers, and what is taken out of each as the server does it: everything from what is no e-mail address, and
 * from a phone number without its country's code.
 */
export const IDENTIFIERS = {
  em: /^(?!.+@.+\..).*|\s/g,
  ph: /^(?!\+|00).*|^00|\(0\)|\D/g,
  external_id: LEFTOVER,
  fn: LEFTOVER,
  ln: LEFTOVER,
  ge: /\B.+/,
  db: BUT_LETTERS_AND_DIGITS,
  ct: BUT_LETTERS_AND_DIGITS,
  st: BUT_LETTERS_AND_DIGITS,
  zp: BUT_LETTERS_AND_DIGITS,
  country: BUT_LETTERS_AND_DIGITS,
} satisfies Record<keyof Identity, RegExp>;

export type Identifier = keyof typeof IDENTIFIERS;

/**
 * An identifier as it is sent: normalised, then SHA-256 in hex. A SHA-256 passes as it is. "" if it is none. Rejects on
 * pages without TLS, where browsers do not hash.
 */
export async function identifier(key: Identifier, raw: unknown): Promise<string> {
  let text = String(raw).trim().toLowerCase();
  if (/^[\da-f]{64}$/.test(text)) return text;
  text = text.replace(LEFTOVER, "").replace(IDENTIFIERS[key], "");
  return text && hex(new Uint8Array(await crypto.subtle.digest("SHA-256", utf8(text))));
}
