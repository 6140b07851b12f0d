/**
 * Events on their way out: collected for a second, sent in batches, kept and sent again when the collector is away.
 * Everything is in memory and ends with the page.
 */

import * as page from "./page.ts";
import { body, type Head } from "./wire.ts";

export const FLUSH_MS = 1000;
export const BATCH_EVENTS = 20;
/** Characters of a batch's events; one larger event travels alone. */
export const BATCH_CHARS = 40_000;
/** Events that wait for consent or for the collector. */
export const MAX_WAITING = 100;
export const LONGEST_PAUSE_MS = 30_000;

export interface Outbox {
  /** Takes an event's JSON. False: full, not taken. */
  add(event: string, urgent: boolean): boolean;
  /** Sends what waits. `leaving`: the page may be gone in a moment. */
  flush(leaving?: boolean): void;
  /** Forgets what waits, for ever: no later retry brings it back. */
  clear(): void;
  /** Sends one event beside the queue, under its own head, until it is answered. */
  sendAlone(head: Head, event: string): void;
}

/** @param head what is said about the visitor now; undefined while nothing may be sent */
export function outbox(head: (leaving: boolean) => Head | undefined): Outbox {
  let waiting: string[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  let failures = 0;

  const wake = (ms: number): void => {
    timer ??= setTimeout(flush, ms);
  };

  function add(event: string, urgent: boolean): boolean {
    if (waiting.length >= MAX_WAITING) return false;
    waiting.push(event);
    if (!failures && (urgent || waiting.length >= BATCH_EVENTS)) flush();
    else wake(FLUSH_MS);
    return true;
  }

  function flush(leaving = false): void {
    clearTimeout(timer);
    timer = undefined;
    while (waiting.length) {
      const about = head(leaving);
      if (!about) return;
      void send(about, nextBatch());
    }
  }

  function nextBatch(): string[] {
    let count = 0;
    let chars = 0;
    for (const event of waiting.slice(0, BATCH_EVENTS)) {
      chars += event.length;
      if (count && chars > BATCH_CHARS) break;
      count++;
    }
    return waiting.splice(0, count);
  }

  async function send(about: Head, batch: string[]): Promise<void> {
    const queue = waiting; // clear() puts another in its place
    const pause = await deliver(body(about, batch));
    if (!pause) return;
    queue.unshift(...batch);
    if (queue === waiting) wake(pause);
  }

  async function sendAlone(about: Head, event: string): Promise<void> {
    const pause = await deliver(body(about, [event]));
    if (pause) setTimeout(sendAlone, pause, about, event);
  }

  /** Posts once. 0: settled; else how many ms to wait before the same may be tried again. */
  async function deliver(text: string): Promise<number> {
    let wait = 0;
    try {
      const answer = await page.post(text);
      if (answer.status !== 429 && answer.status < 500) {
        failures = 0;
        if (answer.status !== 204 && answer.status !== 200) answer.text().then(page.log, page.log);
        return 0;
      }
      wait = Number(answer.headers.get("Retry-After")) * 1000 || 0;
    } catch {
      // the browser has said why; the network may come back
    }
    const pause = Math.min(LONGEST_PAUSE_MS, 1000 * 2 ** failures++);
    return Math.max(wait, pause * (0.5 + Math.random() / 2));
  }

  return { add, flush, clear: () => (waiting = []), sendAlone };
}
