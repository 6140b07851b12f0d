/**
 * The commands of `pintrk`, and the one rule above them: before consent nothing is stored and nothing is sent.
 *
 * Consent: the browser's privacy signal first, then what the page said by `setconsent`, else unknown. Unknown waits in
 * memory; no erases what is kept, and tells the collector once that a visitor it may know has withdrawn.
 */

import { identifier, uuid } from "./ids.ts";
import { outbox } from "./outbox.ts";
import * as page from "./page.ts";
import { IDENTIFIERS, type Consent, type EventData, type Head, type Identifier, type User } from "./wire.ts";

/** The collector's cookie; what is kept in the browser has the same name. */
export const VISITOR = "ps_vid";
export const EPIK = "ps_epik";
/** Of `url` and `referrer`; longer ones are cut, else the server would refuse the event. */
export const MAX_URL_CHARS = 2048;
/** Of a click id. */
export const MAX_EPIK_CHARS = 512;

/** The server refuses any other visitor id, and every event beside it. */
const UUID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i;

/** These do not wait for company: the page is often left right after them. */
const URGENT = /^(checkout|sign[-_ ]?up|lead)$/i;

export type Callback = (taken: boolean, reason: string | undefined) => void;

export interface Client {
  load(tagId: string | number, data?: Record<string, unknown>): void;
  set(data: Record<string, unknown>): void;
  page(): string | undefined;
  /** Gives the event's id, whether or not the event may be sent. */
  track(name: string, data?: EventData, callback?: Callback): string | undefined;
  setconsent(value: unknown): void;
  /** Not a command: the page is hidden or left. */
  leave(): void;
}

export function client(): Client {
  let site = "";
  let said: Consent = "unknown";
  let user: User = {};
  let hashing = 0;
  let heldBack = false; // a flush came while identifiers were being hashed
  const clicked = new URL(page.url()).searchParams.get("epik")?.slice(0, MAX_EPIK_CHARS);
  const out = outbox(head);

  const consent = (): Consent => (page.optedOut() ? "no" : said);
  const known = (): string => [page.cookie(VISITOR), page.read(VISITOR)].find((id) => UUID.test(id)) ?? "";

  function head(leaving: boolean): Head | undefined {
    if (!site || consent() !== "yes") return undefined;
    heldBack = hashing > 0 && !leaving;
    if (heldBack) return undefined;
    const epik = clicked || page.read(EPIK) || page.cookie("_epik");
    const about: Head = { site, sent_at: page.now(), consent: "yes", visitor_id: known() || uuid() };
    if (epik) about.epik = epik;
    if (Object.keys(user).length) about.user = user;
    page.write(VISITOR, about.visitor_id);
    page.write(EPIK, epik);
    return about;
  }

  /** Acts on consent as it is now. */
  function settle(): void {
    if (!site) return;
    if (consent() === "yes") out.flush();
    if (consent() === "no") forget();
  }

  function forget(): void {
    const visitor = known();
    out.clear();
    user = {};
    page.write(VISITOR, "");
    page.write(EPIK, "");
    page.expireCookie(VISITOR);
    if (!visitor) return;
    const time = page.now();
    out.sendAlone(
      { site, sent_at: time, consent: "no", visitor_id: visitor },
      JSON.stringify({ event: "consent_withdrawn", event_id: uuid(time), time }),
    );
  }

  function load(tagId: string | number, data: Record<string, unknown> = {}): void {
    if (site || !tagId) page.log(tagId ? "load was called before" : "load needs the tag id");
    if (tagId) site = String(tagId).trim();
    set(data);
    settle();
  }

  function set(data: Record<string, unknown>): void {
    if (consent() === "no") return;
    for (const key of IDENTIFIERS) {
      if (data[key]) keep(user, key, [data[key]].flat());
    }
  }

  /** `mine`: the user at the time of the call; after a withdrawal another is in its place. */
  function keep(mine: User, key: Identifier, raw: unknown[]): void {
    hashing++;
    Promise.all(raw.map((one) => identifier(key, one)))
      .then((values) => {
        const some = values.filter(Boolean);
        if (some.length) mine[key] = some;
      }, page.log)
      .then(() => {
        if (!--hashing && heldBack) out.flush();
      });
  }

  function track(name: string, data?: EventData, callback?: Callback): string | undefined {
    if (!name) throw new TypeError("track needs an event's name");
    const { event_id, eventID, eventId, eid, em, ph, external_id, ...rest } = data ?? {};
    const time = page.now();
    const id = String(event_id || eventID || eventId || eid || uuid(time));
    set({ em, ph, external_id });
    const event = {
      ...rest,
      event: name,
      event_id: id,
      time,
      url: page.url().slice(0, MAX_URL_CHARS),
      referrer: page.referrer().slice(0, MAX_URL_CHARS),
    };
    const reason = refusal() || (out.add(JSON.stringify(event), URGENT.test(name)) ? "" : "too many events wait");
    if (reason) page.log(name, "not sent:", reason);
    if (callback) callback(!reason, reason || undefined);
    return id;
  }

  const refusal = (): string => (!site ? "call load first" : consent() === "no" ? "no consent" : "");

  return {
    load,
    set,
    track,
    page: () => track("init"),
    setconsent: (value) => {
      said = value === true || value === 1 || value === "true" ? "yes" : "no";
      settle();
    },
    leave: () => out.flush(true),
  };
}
