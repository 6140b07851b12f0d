/** A page in node: its address, cookies, storage and the collector's answers are what a test says. */

import { createHash } from "node:crypto";
import { afterEach, beforeEach, mock } from "node:test";

import { createClient } from "../src/client.ts";
import type { Place } from "../src/place.ts";
import type { Options, Pintrk } from "../src/types.ts";

export const ENDPOINT = "https://collect.shop.example/p/i";

export interface Body {
  site: string;
  sent_at: number;
  consent: string;
  visitor_id: string;
  epik?: string;
  user?: Record<string, string[]>;
  events: Record<string, unknown>[];
}

interface Said {
  status: number;
  retryAfter?: string;
  text?: string;
}

let tabs = 0;

type Listeners = Record<string, ((event?: any) => void)[]>;

export class Shop {
  time = 1795291390500;
  origin = "https://shop.example";
  readonly location = { href: "https://shop.example/p/1" };
  readonly cookies: Record<string, string> = {};
  /** Of the origin: another Shop that has the same is another tab, or a later visit. */
  stored: Record<string, string> = {};
  referrer = "";
  hidden = false;
  gpc = false;
  dnt: string | null = null;
  /** What was posted, and how. */
  readonly requests: RequestInit[] = [];
  /** What stood on the console. */
  readonly logged: unknown[][] = [];
  /** The collector's next answers; "network" = none comes, "never" = it is waited for; or the answer itself. When used up: 204. */
  answers: (Said | Promise<Response> | "network" | "never")[] = [];
  locks: Place["navigator"]["locks"];
  navigation: Place["navigation"];
  history: Place["history"];
  private readonly listeners: Listeners = {};

  /** The page's tag, not loaded yet. */
  tag(options: Options = {}): Pintrk {
    const shop = this;
    mock.method(console, "error", (...what: unknown[]) => shop.logged.push(what.slice(1)));
    const place: Place = {
      fetch: (_, request) => this.answer(request),
      origin: this.origin,
      location: this.location,
      document: {
        get referrer() {
          return shop.referrer;
        },
        get hidden() {
          return shop.hidden;
        },
        get cookie() {
          return Object.entries(shop.cookies)
            .map(([name, value]) => `${name}=${value}`)
            .join("; ");
        },
        set cookie(text: string) {
          const [, name = "", value = ""] = /^(\w+)=([^;]*)/.exec(text) ?? [];
          if (text.includes("Max-Age=0")) delete shop.cookies[name];
          else shop.cookies[name] = value;
        },
      },
      navigator: {
        get globalPrivacyControl() {
          return shop.gpc;
        },
        get doNotTrack() {
          return shop.dnt;
        },
        ...(this.locks && { locks: this.locks }),
      },
      get localStorage() {
        return shop.stored;
      },
      ...(this.navigation && { navigation: this.navigation }),
      ...(this.history && { history: this.history }),
      addEventListener: (type, listener) => (this.listeners[type] ??= []).push(listener),
    };
    mock.method(Math, "random", () => tabs++ / 1000); // what tells tabs apart
    const pintrk = createClient(place, ENDPOINT, options, () => this.time);
    mock.method(Math, "random", () => 1); // the longest jitter
    return pintrk;
  }

  /** The tag, loaded, with a yes. */
  started(): Pintrk {
    const pintrk = this.tag();
    pintrk("load", "shop");
    pintrk("setconsent", true);
    return pintrk;
  }

  fire(type: string, event?: unknown): void {
    for (const listener of this.listeners[type] ?? []) listener(event);
  }

  /** From now on whoever looks at the storage gets an error, as where cookies are blocked. */
  closeStorage(): void {
    Object.defineProperty(this, "stored", {
      get: () => {
        throw new DOMException("closed", "SecurityError");
      },
    });
  }

  /** The page is hidden or left. */
  leave(): void {
    this.fire("pagehide");
  }

  get bodies(): Body[] {
    return this.requests.map(({ body }) => JSON.parse(String(body)) as Body);
  }

  /** Of all events that were posted. */
  get names(): unknown[] {
    return this.bodies.flatMap(({ events }) => events.map(({ event }) => event));
  }

  /** Keys of the events that are kept. */
  get kept(): string[] {
    return Object.keys(this.stored).filter((key) => key.startsWith("ps_vid_q"));
  }

  private async answer(request: RequestInit): Promise<Response> {
    this.requests.push(request);
    const said = this.answers.shift() ?? { status: 204 };
    if (said === "network") throw new TypeError("Failed to fetch");
    if (said === "never") return new Promise(() => undefined);
    if (said instanceof Promise) return said;
    const headers: Record<string, string> = said.retryAfter ? { "Retry-After": said.retryAfter } : {};
    return new Response(said.status === 204 ? null : (said.text ?? "said"), { status: said.status, headers });
  }
}

/** Web Locks of one origin. */
export function locks() {
  let last: Promise<unknown> = Promise.resolve();
  const names: string[] = [];
  return {
    names,
    request: (name: string, run: () => Promise<void>) => {
      names.push(name);
      return (last = last.then(run));
    },
  };
}

/** Time stands still until a test lets it pass; hashes are ready in a microtask; pauses are the longest there are. */
export function eachInStillTime(): void {
  beforeEach(() => {
    mock.timers.enable({ apis: ["setTimeout"] });
    mock.method(crypto.subtle, "digest", async (_: string, bytes: Uint8Array) => {
      const hash = createHash("sha256").update(bytes).digest();
      return new Uint8Array(hash).buffer;
    });
  });
  afterEach(() => mock.reset());
}

/** Lets promises run. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((done) => setImmediate(done));
}

/** Lets `ms` pass on the mocked timers. */
export async function pass(ms: number): Promise<void> {
  await settled();
  mock.timers.tick(ms);
  await settled();
}
