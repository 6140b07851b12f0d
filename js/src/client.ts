/**
 * The commands of `pintrk`, and the one rule above them: before consent nothing is stored and nothing is sent.
 *
 * Consent: the browser's privacy signal first, then what the page said by `setconsent`, then an adapter's word, then the
 * site's default. Unknown waits in memory; no erases what is kept, and tells the collector that a visitor it may know has
 * withdrawn.
 *
 * A page's events are *fresh*, in memory, until consent is given and identifiers are hashed. Then they are packed into
 * requests, which say whose they are, and lie on the *shelf* (the browser's storage) until they are answered. A request
 * has a key of its own there, so that two tabs never overwrite each other's.
 */

import { IDENTIFIERS, identifier, utf8, uuid, type Identifier } from "./ids.ts";
import { attempt, eachVisit, find, type Place } from "./place.ts";
import type { Callback, Options, Pintrk } from "./types.ts";

export const enum Limit {
  FLUSH_MS = 1000,
  /** After a try that failed; up to twice that, at random, and doubled with each further one. */
  PAUSE_MS = 500,
  DOUBLINGS = 5,
  /** That a collector may ask for. */
  LONGEST_REST_MS = 3_600_000,
  BATCH_EVENTS = 20,
  /** Of a request's events: 40 kB, less what is said about all of them. */
  BATCH_BYTES = 38_000,
  /** Events that wait for consent. */
  UNASKED_EVENTS = 100,
  /** Events that wait for the collector, of all visits. */
  KEPT_EVENTS = 200,
  /** What browsers count of a storage. */
  KEPT_CHARS = 100_000,
  KEPT_MS = 48 * 3_600_000,
  /** Of `url` and `referrer`; longer ones are cut, else the server would refuse the event. */
  URL_CHARS = 2048,
}

/** Keys on the shelf. */
const enum Key {
  /** The collector's cookie has this name too. */
  VISITOR = "ps_vid",
  EPIK = "ps_vid_epik",
  /** Of requests with events; a time and more follows. */
  EVENTS = "ps_vid_q",
  /** Of a withdrawal, which outlives the no that made it; the visitor's id follows. */
  WITHDRAWAL = "ps_vid_w",
}

/** These do not wait for company: the page is often left right after them. */
const URGENT = /^(checkout|sign.?up|lead)$/i;

const enum Consent {
  NO = -1,
  UNKNOWN,
  YES,
}

type Data = Record<string, unknown>;

/** What is meant by a value for consent. What begins with "un" is unknown, as undefined is. */
const consentOf = (value: unknown): Consent =>
  /^(true|1|yes)$/.test(value as string) ? Consent.YES : /^un/.test(value as string) ? Consent.UNKNOWN : Consent.NO;

/**
 * The function that is to be `pintrk`. It never throws; what goes wrong is logged.
 *
 * @param endpoint where events are posted to
 * @param options what the site says; `load` may say more
 * @param now ms since 1970
 */
export function createClient(place: Place, endpoint: string, options: Options, now = Date.now): Pintrk {
  const { document, navigator } = place;
  const clicked = find(place.location.href, "epik"); // before the page changes its address
  const flying: Record<string, boolean> = {};
  let page: Consent | undefined; // what it said
  let adapter: Consent | undefined;
  let consent: Consent = Consent.UNKNOWN;
  let fresh: string[] = [];
  let storage: Record<string, string> | undefined;
  let shelf: Record<string, string> = {};
  let user: Partial<Record<Identifier, string[] | undefined>> = {};
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

  function drop(key: string): void {
    delete shelf[key];
    delete storage![key]; // where it is full they are two
  }

  /** A request without its beginning, which says when it is sent. */
  const shelve = (key: string, events: string, envelope: object): void =>
    keep(key, `"events":[${events}],` + JSON.stringify({ site: pintrk.tagId, ...envelope }).slice(1));

  /** Keys of the requests that may be sent, oldest first; events that waited too long are thrown away. */
  const waiting = (): string[] =>
    Object.keys(shelf)
      .filter((key) => consent && /^ps_vid_[qw]/.test(key) && (key > Key.EVENTS + (now() - Limit.KEPT_MS) || drop(key)))
      .sort();

  /** The server refuses what is no UUID, and every event beside it. */
  const visitor = (): string | undefined =>
    [cookie(Key.VISITOR), shelf[Key.VISITOR]].find((id) => /^[\da-f-]{36}$/.test(id!));

  /** Late, as browsers read a storage from the disk when it is first looked at. */
  function open(): void {
    if (!storage) shelf = storage = attempt(() => place.localStorage) ?? {};
  }

  /** Acts on what is now known about consent. */
  function settle(): void {
    const before = consent;
    const gpc = navigator.globalPrivacyControl || navigator.doNotTrack == "1";
    if (pintrk.tagId)
      consent =
        gpc && !(page! > 0 && consentOf(options.explicit_yes_overrides_gpc) > 0)
          ? Consent.NO
          : page ?? adapter ?? consentOf(options.consent);
    if (DEBUG && pintrk.tagId) note("consent", consent, { gpc: !!gpc, page, adapter, site: options.consent });
    if (consent === before) return;
    if (consent < Consent.UNKNOWN) {
      open();
      const known = visitor();
      fresh = [];
      user = {};
      keep(Key.VISITOR, ""); // other tabs hear it, also if there was no id
      for (const key of Object.keys(shelf)) if (/^ps_vid(?!_w)/.test(key)) drop(key);
      attempt(() => (document.cookie = Key.VISITOR + "=; Max-Age=0; Path=/"));
      if (known) {
        const event = JSON.stringify({ event: "consent_withdrawn", event_id: uuid(now()), time: now() });
        shelve(Key.WITHDRAWAL + known, event, { visitor_id: known, consent: "no" });
      }
    }
    setTimeout(flush); // what the page says in the same breath goes along
  }

  /** Packs fresh events into requests; the first of all makes the visitor's id. */
  function pack(): void {
    if (consent <= Consent.UNKNOWN) return;
    open();
    while (fresh[0]) {
      const visitor_id = visitor() ?? uuid(now());
      keep(Key.VISITOR, visitor_id);
      const epik = clicked ?? cookie("_epik") ?? shelf[Key.EPIK];
      if (epik) keep(Key.EPIK, epik);
      let events = "";
      let most = Limit.BATCH_EVENTS + 1;
      while (utf8((events = fresh.slice(0, --most).join(",\n"))).length > Limit.BATCH_BYTES);
      fresh = fresh.slice(most);
      shelve(Key.EVENTS + now() + count++, events, { visitor_id, consent: "yes", epik, user });
    }
  }

  /** Sends a request. What is answered for good is dropped, all else is *flying* until its pause is over. */
  async function send(key: string): Promise<void> {
    const body = `{"sent_at":${now()},${shelf[key]}`;
    let pause = (1 + Math.random()) * Limit.PAUSE_MS * 2 ** Math.min(failures++, Limit.DOUBLINGS);
    flying[key] = true;
    try {
      if (DEBUG) note("sent", body);
      const answer = await place.fetch(endpoint, {
        method: "POST",
        body,
        credentials: place.origin === "null" ? "omit" : "include", // no answer to "null" may be read with them
        keepalive: true,
      });
      const { status } = answer;
      const reason = await answer.text();
      if (DEBUG) note("answered", status, reason);
      if (status > 204) log(status, reason);
      if (status !== 429 && status < 500 && !/n":"log_/.test(reason)) {
        drop(key);
        failures = pause = 0;
      } else pause += Math.min(+answer.headers.get("Retry-After")! * 1000 || 0, Limit.LONGEST_REST_MS);
    } catch {
      if (DEBUG) note("answered", 0, ""); // the browser has said why, or says this of every request of a page that is left
    }
    setTimeout(() => {
      delete flying[key];
      busy = false;
      flush();
    }, pause);
  }

  /** Sends what waits, one request at a time and one tab at a time. No tab waits for the pauses of another. */
  function flush(): void {
    if (busy) return;
    busy = true;
    const run = async (): Promise<void> => {
      await hashed;
      pack();
      const key = waiting().find((key) => !flying[key]);
      busy = !!key; // until the pause is over
      if (key) await send(key);
    };
    navigator.locks?.request(Key.VISITOR, run).catch(run) ?? run();
  }

  /** Sends all that waits at once: the page may be gone in a moment. */
  function leave(): void {
    pack();
    for (const key of waiting()) if (!flying[key]) void send(key);
  }

  const commands: Record<string, ((...args: any[]) => unknown) | undefined> = {
    load(tagId: string | number, data?: Data): void {
      const first = !pintrk.tagId;
      if (DEBUG && !first) log("load again");
      pintrk.tagId = String(tagId).trim();
      Object.assign(options, data);
      settle();
      commands.set!(data);
      if (first && consentOf(options.pagevisit) > 0) eachVisit(place, () => pintrk("track", "pagevisit"));
    },

    set(data?: Data): void {
      if (consent < Consent.UNKNOWN) return;
      for (const key of Object.keys(IDENTIFIERS) as Identifier[]) {
        const [raw] = [data?.[key]].flat();
        if (raw !== undefined) {
          const mine = user; // after a withdrawal another is in its place
          hashed = Promise.all([identifier(key, raw), hashed]).then(
            ([value]) => (mine[key] = value ? [value] : DEBUG && raw ? (note("refused", key) as undefined) : undefined),
            log,
          );
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
        toJSON: undefined, // the page's would take the event's place
        event: name,
        event_id: id,
        time,
        url: place.location.href.slice(0, Limit.URL_CHARS),
        referrer: document.referrer.slice(0, Limit.URL_CHARS),
      });
      const all = [...waiting().map((key) => shelf[key]), ...fresh].join("\n");
      const reason =
        consent < Consent.UNKNOWN
          ? "no consent"
          : utf8(event).length > Limit.BATCH_BYTES ||
              all.length > Limit.KEPT_CHARS ||
              all.split("\n").length >= (consent ? Limit.KEPT_EVENTS : Limit.UNASKED_EVENTS)
            ? "too much"
            : undefined;
      if (DEBUG) note(reason ? "dropped" : "queued", event, reason);
      if (DEBUG && !pintrk.tagId) note("unloaded");
      if (!reason) {
        fresh.push(event);
        setTimeout(flush, URGENT.test(name) || fresh.length >= Limit.BATCH_EVENTS ? 0 : Limit.FLUSH_MS);
      } else if (consent >= Consent.UNKNOWN) log(reason); // a no is no fault
      attempt(() => callback?.(!reason, reason), log);
      return id;
    },

    page: () => pintrk("track", "init"),

    setconsent(value: unknown, by?: unknown): void {
      if (by) adapter = consentOf(value);
      else page = consentOf(value);
      settle();
    },
  };

  const pintrk = ((name: unknown, ...args: unknown[]) =>
    attempt(
      () => commands[String(name).trim().toLowerCase()]!(...args),
      (fault) => log(name, fault), // also where there is no such command
    )) as Pintrk;

  place.addEventListener("storage", ({ key, newValue }) => {
    if (key === Key.VISITOR && !newValue) commands.setconsent!("no"); // a no in another tab, which tells the collector
  });
  place.addEventListener("pagehide", leave);
  place.addEventListener("visibilitychange", () => document.hidden && leave());
  return pintrk;
}
