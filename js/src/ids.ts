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
 * An identifier as it is sent: normalised, then SHA-256 in hex. A SHA-256 passes as it is; "" if it is none: empty, or
 * an e-mail without "@" (`undefined`, `n/a`). Plain where the browser offers no SHA-256, and for phone numbers without
 * a country's code, which the server completes with the site's.
 */
export async function identifier(key: Identifier, raw: unknown): Promise<string> {
  let text = String(raw ?? "").trim().toLowerCase();
  if (!text || /^[0-9a-f]{64}$/.test(text)) return text;
  if (key === "em") {
    if (!text.includes("@")) return "";
    text = text.replace(/\s/g, "");
  }
  if (key === "ph") {
    if (!/^(\+|00)/.test(text)) return text;
    text = text.replace(/\D/g, "").replace(/^0+/, "");
  }
  return page.digest ? hex(new Uint8Array(await page.digest(new TextEncoder().encode(text)))) : text;
}
