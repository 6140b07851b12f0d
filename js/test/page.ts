/** Stands in for src/page.ts in node: time, storage, cookies and the collector's answers are what a test says. */

import { createHash } from "node:crypto";

interface Answer {
  status: number;
  retryAfter?: string;
}

export const place = {
  time: 1795291390500,
  url: "https://shop.example/p/1",
  optedOut: false,
  cookies: {} as Record<string, string>,
  stored: {} as Record<string, string>,
  sent: [] as string[],
  said: [] as unknown[][],
  /** The collector's next answers; "network" = none comes. When they are used up it says 204. */
  answers: [] as (Answer | "network")[],
};

export const now = (): number => place.time;
export const url = (): string => place.url;
export const referrer = (): string => "";
export const optedOut = (): boolean => place.optedOut;
export const cookie = (name: string): string => place.cookies[name] ?? "";
export const expireCookie = (name: string): void => void delete place.cookies[name];
export const read = (key: string): string => place.stored[key] ?? "";
export const write = (key: string, value: string): void => {
  if (value) place.stored[key] = value;
  else delete place.stored[key];
};
/** Ready in a microtask, so that a test need not wait for another thread. */
export const digest = async (bytes: Uint8Array<ArrayBuffer>): Promise<ArrayBuffer> =>
  new Uint8Array(createHash("sha256").update(bytes).digest()).buffer;
export const log = (...what: unknown[]): void => void place.said.push(what);

export async function post(body: string): Promise<Response> {
  place.sent.push(body);
  const answer = place.answers.shift() ?? { status: 204 };
  if (answer === "network") throw new TypeError("Failed to fetch");
  const headers = answer.retryAfter ? { "Retry-After": answer.retryAfter } : {};
  return new Response(answer.status === 204 ? null : "said", { status: answer.status, headers });
}
