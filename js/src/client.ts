/**
 * The commands of `pintrk`, and the one rule above them: before consent nothing is stored and nothing is sent.
 *
 * Consent: the browser's privacy signal first, then what the page said by `setconsent`, then an adapter's word, then the
 * site's default. Unknown waits in memory; no erases what is kept, and tells the collector once that a visitor it may
 * know has withdrawn.
 *
 * Everything the tag remembers is on its *shelf*: memory, and after a yes the browser's storage. An event that waits has
 * a key of its own there, so that two tabs never overwrite each other's; it goes when its answer has come.
 */

import { IDENTIFIERS, identifier, utf8, uuid, type Identifier } from "./ids.ts";
import { attempt, eachVisit, find, type Place } from "./place.ts";
import type { Callback, Options, Pintrk } from "./types.ts";

export const enum Limit {
  FLUSH_MS = 1000,
  LONGEST_PAUSE_MS = 30_000,
  /** That a collector may ask for. */
  LONGEST_REST_MS = 3_600_000,
  BATCH_EVENTS = 20,
  /** Of a request: 40 kB, less the brackets around the events. */
  BATCH_BYTES = 39_980,
  /** Of an event; leaves room for the envelope. */
  EVENT_BYTES = 36_000,
  /** Events that wait for consent. */
  UNASKED_EVENTS = 100,
  /** Events that wait for the collector, of all visits. */
  KEPT_EVENTS = 200,
  KEPT_BYTES = 100_000,
  KEPT_MS = 48 * 3_600_000,
  /** Of `url` and `referrer`; longer ones are cut, else the server would refuse the event. */
  URL_CHARS = 2048,
}

/** Keys on the shelf. */
const enum Key {
  /** The collector's cookie has this name too. */
  VISITOR = "ps_vid",
  EPIK = "ps_epik",
  /** Followed by the event's time and more. */
  QUEUE = "ps_q",
}

/** The server refuses any other visitor id, and every event beside it. */
const UUID = /^[\da-f-]{36}$/;

/** These do not wait for company: the page is often left right after them. */
const URGENT = /^(checkout|sign.?up|lead)$/i;

const enum Consent {
  NO = -1,
  UNKNOWN,
  YES,
}

type Data = Record<string, unknown>;

/** What is meant by a value for consent; "un..." is undefined and unknown. */
const word = (value: unknown): Consent =>
  /^(true|1|yes)$/.test(value as string) ? Consent.YES : /^un/.test(value as string) ? Consent.UNKNOWN : Consent.NO;

/**
 * The function that is to be `pintrk`. It never throws; what goes wrong is logged.
 *
 * @param endpoint where events are posted to
 * @param options what the site says; `load` may say more
 * @param now ms since 1970
 */
export function createClient(place: Place, endpoint: string, options: Options = {}, now = Date.now): Pintrk {
  const { document, navigator } = place;
  const storage: Record<string, string> = attempt(() => place.localStorage) ?? {};
  const flying = new Set<string>();
  let page: Consent | undefined; // what it said
  let adapter: Consent | undefined;
  let consent: Consent = Consent.UNKNOWN;
  let shelf: Record<string, string> = {};
  let user: Partial<Record<Identifier, string[]>> | undefined;
  let hashed: Promise<unknown> | undefined;
  let count = 1e9 * (1 + Math.random());
  let failures = 0; // in a row
  let busy: boolean | undefined;

  const note = (...what: unknown[]): void => void pintrk.said?.push(what);
  const log = (...what: unknown[]): void => {
    if (DEBUG) note(...what);
    console.error("pintrk:", ...what);
  };
  const cookie = (name: string): string | undefined => find(attempt(() => document.cookie), name);

  /** Where the storage is full, this page goes on in memory. */
  function keep(key: string, value: string): void {
    try {
      shelf[key] = value;
    } catch {
      shelf = { ...shelf, [key]: value };
    }
  }

  const clicked = find(place.location.href, "epik") ?? cookie("_epik");
  if (clicked) keep(Key.EPIK, clicked);

  const put = (event: string): void => keep(Key.QUEUE + now() + count++, event);

  /** Keys of the events that wait, oldest first; those that waited too long are thrown away. */
  const waiting = (): string[] =>
    Object.keys(shelf)
      .filter((key) => /^ps_q\d/.test(key) && (key > Key.QUEUE + (now() - Limit.KEPT_MS) || !delete shelf[key]))
      .sort();

  /** Acts on what is now known about consent. */
  function settle(): void {
    const before = consent;
    const waited = before === Consent.UNKNOWN ? shelf : {};
    const visitor = [cookie(Key.VISITOR), shelf[Key.VISITOR], storage[Key.VISITOR]].find((id) => UUID.test(id!));
    const yesWins = word(options.explicit_yes_overrides_gpc) > 0;
    const gpc = navigator.globalPrivacyControl || navigator.doNotTrack === "1";
    if (pintrk.tagId)
      consent = gpc && !(yesWins && page === Consent.YES) ? Consent.NO : page ?? adapter ?? word(options.consent);
    if (consent === before) return;
    if (DEBUG) note("consent", consent, { gpc: !!gpc, page, adapter, site: options.consent });
    shelf = {};
    if (consent === Consent.YES) {
      shelf = storage;
      for (const key of Object.keys(waited)) keep(key, waited[key]!);
      keep(Key.VISITOR, visitor ?? uuid(now()));
    }
    if (consent === Consent.NO) {
      user = undefined;
      for (const key in storage) if (/^ps_(vid|epik|q\d)/.test(key)) delete storage[key];
      attempt(() => (document.cookie = Key.VISITOR + "=; Max-Age=0; Path=/"));
      if (visitor) {
        keep(Key.VISITOR, visitor);
        put(JSON.stringify({ event: "consent_withdrawn", event_id: uuid(now()), time: now() }));
      }
    }
    setTimeout(flush); // what the page says in the same breath goes along
  }

  /** Sends what waits, one tab at a time. */
  function flush(): void {
    if (busy) return;
    busy = true;
    const run = (): Promise<void> => drain().finally(() => (busy = false));
    navigator.locks?.request(Key.QUEUE, run).catch(run) ?? run();
  }

  /** Sends batch after batch until nothing waits or one fails. `leaving`: all at once, the page may be gone in a moment. */
  async function drain(leaving?: boolean): Promise<void> {
    if (!leaving) await hashed;
    if (consent === Consent.UNKNOWN) return;
    const head = JSON.stringify({
      site: pintrk.tagId,
      sent_at: now(),
      consent: consent === Consent.YES ? "yes" : "no",
      visitor_id: shelf[Key.VISITOR],
      epik: shelf[Key.EPIK],
      user,
    }).slice(0, -1);
    let room = Limit.BATCH_BYTES - utf8(head).length;
    let places = Limit.BATCH_EVENTS;
    const batch = waiting().filter(
      (key) => !flying.has(key) && places-- > 0 && (room -= utf8(shelf[key]!).length + 1) > 0 && flying.add(key),
    );
    if (!batch.length) return;
    const body = `${head},"events":[${batch.map((key) => shelf[key])}]}`.replace(
      /(\\\\)|\\u(d[89a-f]..|0000)/g, // no server takes NULs and halves of surrogate pairs
      "$1",
    );
    let taken: boolean | undefined;
    let pause = (1 + Math.random()) * Math.min(Limit.LONGEST_PAUSE_MS / 2, 500 * 2 ** failures++);
    if (DEBUG) note("sent", body);
    try {
      const answering =
        leaving && navigator.sendBeacon && !("keepalive" in Request.prototype)
          ? (navigator.sendBeacon(endpoint, body) as never) // no answer comes: the events stay where they are
          : place.fetch(endpoint, { method: "POST", body, credentials: "include", keepalive: true });
      if (leaving) void drain(leaving);
      const answer = await answering;
      const { status } = answer;
      const reason = await answer.text();
      if (DEBUG) note("answered", status, reason);
      if (status > 204) log(status, reason);
      taken = status !== 429 && status < 500 && !/n":"log_/.test(reason);
      pause += Math.min(+answer.headers.get("Retry-After")! * 1000 || 0, Limit.LONGEST_REST_MS);
    } catch {
      // the browser has said why; the network may come back
    }
    for (const key of batch) {
      flying.delete(key);
      if (taken) delete shelf[key], delete storage[key]; // where the storage is full they are two
    }
    if (taken) failures = 0;
    else await new Promise((done) => setTimeout(done, pause));
    return leaving ? flush() : drain();
  }

  const commands: Record<string, ((...args: any[]) => unknown) | undefined> = {
    load(tagId: string | number, data?: Data): void {
      const first = !pintrk.tagId;
      if (DEBUG && !first) log("load again");
      pintrk.tagId = String(tagId).trim();
      Object.assign(options, data);
      settle();
      commands.set!(data);
      if (first && options.pagevisit) eachVisit(place, () => pintrk("track", "pagevisit"));
    },

    set(data: Data = {}): void {
      if (consent === Consent.NO) return;
      for (const key of Object.keys(IDENTIFIERS) as Identifier[]) {
        const [raw] = [data[key]].flat();
        if (raw) {
          const mine = (user ??= {}); // after a withdrawal another is in its place
          hashed = Promise.all([identifier(key, raw), hashed]).then(([value]) => {
            if (value) mine[key] = [value];
          }, log);
        }
      }
    },

    track(name: string, data?: Data, callback?: Callback): string {
      const { event_id, eventID, eventId, eid, em, ph, external_id, ...rest } = data ?? {};
      const time = now();
      const id = String(event_id || eventID || eventId || eid || uuid(time));
      commands.set!({ em, ph, external_id });
      const event = JSON.stringify({
        ...rest,
        event: name,
        event_id: id,
        time,
        url: place.location.href.slice(0, Limit.URL_CHARS),
        referrer: document.referrer.slice(0, Limit.URL_CHARS),
      });
      const keys = waiting();
      const reason =
        consent === Consent.NO
          ? "no consent"
          : utf8(event).length > Limit.EVENT_BYTES ||
              keys.length >= (consent === Consent.YES ? Limit.KEPT_EVENTS : Limit.UNASKED_EVENTS) ||
              utf8(keys.map((key) => shelf[key]) + event).length > Limit.KEPT_BYTES
            ? "too much"
            : undefined;
      if (DEBUG) note(reason ? "dropped" : "queued", event, reason);
      if (reason) log(reason);
      else {
        put(event);
        setTimeout(flush, URGENT.test(name) || keys.length > Limit.BATCH_EVENTS - 2 ? 0 : Limit.FLUSH_MS);
      }
      callback?.(!reason, reason);
      return id;
    },

    page: () => pintrk("track", "init"),

    setconsent(value: unknown, by?: unknown): void {
      if (by === "adapter") adapter = word(value);
      else page = word(value);
      settle();
    },
  };

  const pintrk = ((name: unknown, ...args: unknown[]) => {
    try {
      const command = commands[`${name}`.trim().toLowerCase()];
      if (command) return command(...args);
      log("unknown command", name);
    } catch (fault) {
      log(fault);
    }
    return undefined;
  }) as Pintrk;

  place.addEventListener("storage", ({ key, newValue }) => {
    if (key === Key.VISITOR && !newValue) commands.setconsent!("no"); // a no in another tab, which tells the collector
  });
  place.addEventListener("visibilitychange", () => drain(true));
  return pintrk;
}
