/**
 * What the tag needs from the place it runs in, here a web page. A build for a place without a page (a sandboxed pixel)
 * puts another module with the same exports in this one's stead; so do the tests.
 */

/** The browser refuses bodies above 64 KiB, all requests in flight together, when they are to outlive the page. */
const KEEPALIVE_BYTES = 60_000;

const script = document.currentScript as HTMLScriptElement | null;
const endpoint = new URL("p/i", script?.src || location.origin);
const subtle = crypto.subtle as SubtleCrypto | undefined;
const memory: Record<string, string> = {};

export const now = Date.now;
export const url = (): string => location.href;
export const referrer = (): string => document.referrer;
export const log = (...what: unknown[]): void => console.error("pintrk:", ...what);

/** Does the visitor's browser ask not to be tracked: Global Privacy Control, Do Not Track? */
export const optedOut = (): boolean =>
  (navigator as { globalPrivacyControl?: boolean }).globalPrivacyControl === true || navigator.doNotTrack === "1";

/** A cookie's value, "" if there is none that can be read. */
export const cookie = (name: string): string =>
  new RegExp(`(?:^|; )${name}=([^;]*)`).exec(document.cookie)?.[1] ?? "";

export const expireCookie = (name: string): void => {
  document.cookie = `${name}=; Max-Age=0; Path=/`;
};

/** What outlives the page; where storage is closed, what was written on this page. "" if there is nothing. */
export function read(key: string): string {
  try {
    return localStorage.getItem(key) ?? "";
  } catch {
    return memory[key] ?? "";
  }
}

/** Stores `value` for `read`; "" removes the key. */
export function write(key: string, value: string): void {
  try {
    if (value) localStorage.setItem(key, value);
    else localStorage.removeItem(key);
  } catch {
    memory[key] = value;
  }
}

/** SHA-256; undefined on pages without TLS, where browsers offer none. */
export const digest = subtle && ((bytes: Uint8Array<ArrayBuffer>) => subtle.digest("SHA-256", bytes));

/** POST to the collector beside which this script lies, with cookies, in a way that outlives the page. */
export const post = (body: string): Promise<Response> =>
  fetch(endpoint, {
    method: "POST",
    body, // a text is sent as text/plain: no preflight
    credentials: "include",
    keepalive: body.length < KEEPALIVE_BYTES,
  });
