/** Ids and identifiers: UUIDs, normalising, hashing. */

import * as page from "./page.ts";
import type { Identifier } from "./wire.ts";

/** Two hex digits a byte. */
const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => (byte + 256).toString(16).slice(1)).join("");

/** A random UUID; with `now` (ms) a UUIDv7, which sorts by time. crypto.randomUUID is missing on pages without TLS. */
export function uuid(now?: number): string {
  const random = hex(crypto.getRandomValues(new Uint8Array(16)));
  const digits = now ? now.toString(16).padStart(12, "0") + random.slice(12) : random;
  return digits.replace(/(.{8})(.{4}).(.{3}).(.{3})/, `$1-$2-${now ? 7 : 4}$3-8$4-`);
}

/**
 * An identifier as it is sent: normalised as the server does it, then SHA-256 in hex; plain where the browser offers
 * none. A SHA-256 passes as it is. "" if it is none, as one bad identifier would cost every event beside it: empty, no
 * e-mail address (`undefined`, `n/a`), a phone number without its country's code.
 */
export async function identifier(key: Identifier, raw: unknown): Promise<string> {
  let text = String(raw).trim().toLowerCase();
  if (/^[0-9a-f]{64}$/.test(text)) return text;
  if (key === "em") text = /^[^@]+@[^@]+\.[^@]+$/.test(text) ? text.replace(/\s/g, "") : "";
  if (key === "ph") text = /^(\+|00)/.test(text) ? text.replace(/\(0\)|\D/g, "").replace(/^0+/, "") : "";
  if (key === "ge") text = text.slice(0, 1);
  if (BARE.includes(key)) text = text.replace(/[^\p{L}\p{N}]/gu, "");
  return text && page.digest ? hex(new Uint8Array(await page.digest(new TextEncoder().encode(text)))) : text;
}

/** Only letters and digits of these count. */
const BARE = ["db", "ct", "st", "zp", "country"];
