import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { client } from "../src/client.ts";
import { BATCH_CHARS, BATCH_EVENTS, FLUSH_MS, LONGEST_PAUSE_MS, MAX_WAITING } from "../src/outbox.ts";
import { place } from "./page.ts";

interface Body {
  site: string;
  consent: string;
  visitor_id: string;
  epik?: string;
  user?: Record<string, string[]>;
  events: Record<string, unknown>[];
}

const COOKIE = "0b5c0000-0000-4000-8000-00000000000c";
const fresh = structuredClone(place);
const bodies = (): Body[] => place.sent.map((text) => JSON.parse(text) as Body);
const names = (): unknown[] => bodies().flatMap((body) => body.events.map(({ event }) => event));

/** Lets promises run. */
const settled = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn++) await new Promise((done) => setImmediate(done));
};

async function pass(ms: number): Promise<void> {
  mock.timers.tick(ms);
  await settled();
}

beforeEach(() => {
  Object.assign(place, structuredClone(fresh));
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(Math, "random", () => 1); // the longest jitter
});

afterEach(() => mock.reset());

function started(): ReturnType<typeof client> {
  const tag = client();
  tag.load("shop");
  tag.setconsent(true);
  return tag;
}

test("events of a second travel together, in order", async () => {
  const tag = started();
  tag.page();
  tag.track("pagevisit");
  await pass(FLUSH_MS - 1);
  assert.deepEqual(names(), []);
  await pass(1);
  assert.equal(place.sent.length, 1);
  assert.deepEqual(names(), ["init", "pagevisit"]);
});

test("a full batch does not wait", async () => {
  const tag = started();
  for (let n = 0; n < BATCH_EVENTS; n++) tag.track("pagevisit");
  await settled();
  assert.equal(bodies()[0]?.events.length, BATCH_EVENTS);
});

for (const name of ["checkout", "SignUp", "sign_up", "lead"]) {
  test(`${name} does not wait`, async () => {
    started().track(name);
    await settled();
    assert.deepEqual(names(), [name]);
  });
}

test("large events travel apart, a single one however large", async () => {
  const tag = started();
  tag.track("a", { text: "x".repeat(BATCH_CHARS) });
  tag.track("b", { text: "x".repeat(BATCH_CHARS / 2 - 200) });
  tag.track("c", { text: "x".repeat(BATCH_CHARS / 2 - 200) });
  await pass(FLUSH_MS);
  assert.deepEqual(bodies().map(({ events }) => events.length), [1, 2]);
});

test("what a page changes after the call changes nothing", async () => {
  const data = { value: 1 };
  started().track("lead", data);
  data.value = 2;
  await settled();
  assert.equal(bodies()[0]?.events[0]?.value, 1);
});

test("track gives the id that is sent, whatever its spelling", async () => {
  const tag = started();
  const made = tag.track("pagevisit");
  assert.match(made ?? "", /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(parseInt((made ?? "").replace("-", "").slice(0, 12), 16), place.time);
  const aliases = ["event_id", "eventID", "eventId", "eid"];
  for (const alias of aliases) assert.equal(tag.track("x", { [alias]: alias }), alias);
  await pass(FLUSH_MS);
  assert.deepEqual(bodies()[0]?.events.map(({ event_id }) => event_id), [made, ...aliases]);
  assert.deepEqual(Object.keys(bodies()[0]?.events[3] ?? {}).sort(), ["event", "event_id", "referrer", "time", "url"]);
});

test("nothing is stored or sent while consent is unknown, all of it afterwards", async () => {
  place.url += "?epik=dj0y";
  const tag = client();
  tag.load("shop", { em: "a@example.com" });
  tag.page();
  tag.track("checkout");
  await pass(60_000);
  tag.leave();
  assert.deepEqual([place.sent, place.stored], [[], {}]);
  tag.setconsent(true);
  await settled();
  assert.deepEqual(names(), ["init", "checkout"]);
  assert.equal(bodies()[0]?.epik, "dj0y");
  assert.deepEqual(place.stored, { ps_vid: bodies()[0]?.visitor_id, ps_epik: "dj0y" });
});

test(`${MAX_WAITING} events wait for consent, the next one is told no`, async () => {
  const tag = client();
  tag.load("shop");
  const told: unknown[] = [];
  for (let n = 0; n <= MAX_WAITING; n++) tag.track("pagevisit", {}, (...said) => told.push(said));
  assert.deepEqual(told[MAX_WAITING - 1], [true, undefined]);
  assert.deepEqual(told[MAX_WAITING], [false, "too many events wait"]);
  tag.setconsent(true);
  await settled();
  assert.equal(names().length, MAX_WAITING);
});

for (const yes of [true, 1, "true"]) {
  test(`setconsent(${JSON.stringify(yes)}) is a yes`, async () => {
    const tag = client();
    tag.load("shop");
    tag.setconsent(yes);
    tag.track("lead");
    await settled();
    assert.deepEqual(names(), ["lead"]);
  });
}

for (const no of [false, 0, "false", undefined, "yes", {}]) {
  test(`setconsent(${JSON.stringify(no)}) is a no`, async () => {
    const tag = client();
    tag.load("shop");
    tag.track("pagevisit");
    tag.setconsent(no);
    tag.track("lead", {}, (taken, reason) => assert.deepEqual([taken, reason], [false, "no consent"]));
    tag.setconsent(true);
    await pass(60_000);
    assert.deepEqual(names(), []);
  });
}

test("withdrawal erases what is kept and says so once, with nothing else in it", async () => {
  place.url += "?epik=dj0y";
  const tag = started();
  tag.set({ em: "a@example.com" });
  tag.track("lead");
  await settled();
  const visitor = place.stored.ps_vid;
  tag.track("pagevisit");
  tag.setconsent(false);
  tag.setconsent(false);
  await pass(60_000);
  assert.deepEqual(place.stored, {});
  assert.deepEqual(names(), ["lead", "consent_withdrawn"]);
  const last = bodies()[1];
  assert.deepEqual(Object.keys(last ?? {}).sort(), ["consent", "events", "sent_at", "site", "visitor_id"]);
  assert.deepEqual([last?.site, last?.visitor_id, last?.consent], ["shop", visitor, "no"]);
  assert.deepEqual(Object.keys(last?.events[0] ?? {}).sort(), ["event", "event_id", "time"]);
});

test("a withdrawal that nobody answers is sent again", async () => {
  place.stored.ps_vid = COOKIE;
  place.answers = ["network", { status: 503 }];
  const tag = client();
  tag.load("shop");
  tag.setconsent(false);
  await settled();
  await pass(1000);
  await pass(2000);
  await pass(600_000);
  assert.deepEqual(names(), Array(3).fill("consent_withdrawn"));
  assert.equal(new Set(place.sent.map((text) => (JSON.parse(text) as Body).events[0]?.event_id)).size, 1);
});

test("a refusal with nobody known sends nothing", async () => {
  const tag = client();
  tag.load("shop");
  tag.setconsent(false);
  await pass(60_000);
  assert.deepEqual(place.sent, []);
});

test("the browser's privacy signal beats a yes, and withdraws a visitor it finds", async () => {
  place.optedOut = true;
  place.cookies.ps_vid = COOKIE;
  const tag = started();
  tag.track("lead", {}, (taken) => assert.equal(taken, false));
  await pass(60_000);
  assert.deepEqual(names(), ["consent_withdrawn"]);
  assert.equal(bodies()[0]?.visitor_id, COOKIE);
  assert.deepEqual([place.cookies, place.stored], [{}, {}]);
});

test("a consent given before load counts", async () => {
  const tag = client();
  tag.setconsent(true);
  tag.load("shop");
  tag.track("lead");
  await settled();
  assert.deepEqual(names(), ["lead"]);
});

test("the visitor's id is kept, and the cookie's replaces it", async () => {
  const tag = started();
  tag.track("lead");
  tag.track("lead");
  place.cookies.ps_vid = COOKIE;
  tag.track("lead");
  await settled();
  const [first, second, third] = bodies().map(({ visitor_id }) => visitor_id);
  assert.match(first ?? "", /^[0-9a-f]{8}-[0-9a-f]{4}-4/);
  assert.equal(second, first);
  assert.deepEqual([third, place.stored.ps_vid], [COOKIE, COOKIE]);
});

test("identifiers are hashed before they travel, in load, set and track", async () => {
  const tag = client();
  tag.setconsent(true);
  tag.load("shop", { em: " Ada@Example.COM " });
  tag.set({ ph: "+49 (0151) 234" });
  tag.track("signup", { external_id: 42 });
  await settled();
  const user = bodies()[0]?.user ?? {};
  assert.deepEqual(Object.keys(user).sort(), ["em", "external_id", "ph"]);
  for (const list of Object.values(user)) assert.match(list[0] ?? "", /^[0-9a-f]{64}$/);
  assert.equal(bodies()[0]?.events[0]?.external_id, undefined);
});

const HASH = "b4c9a289323b21a01c3e940f150eb9b8c542587f1abfd8f0e1cc1ffc5e475514"; // of user@example.com
for (const [raw, sent] of [
  ["user@example.com", [HASH]],
  [" USER@example.com\n", [HASH]],
  [HASH, [HASH]],
  [HASH.toUpperCase(), [HASH]],
  [["user@example.com", "undefined"], [HASH]],
  ["undefined", undefined],
  ["n/a", undefined],
  ["<user_email_address>", undefined],
] as const) {
  test(`em ${JSON.stringify(raw).slice(0, 30)} is sent as ${sent ? "its SHA-256" : "nothing"}`, async () => {
    const tag = started();
    tag.set({ em: raw });
    tag.track("lead");
    await settled();
    assert.deepEqual(bodies()[0]?.user?.em, sent);
  });
}

for (const [key, raw] of Object.entries({ ph: "0151 234", em: "a@b", fn: " ", ct: "-" })) {
  test(`${key} ${JSON.stringify(raw)} is not sent`, async () => {
    const tag = started();
    tag.set({ [key]: raw });
    tag.track("lead");
    await settled();
    assert.equal(bodies()[0]?.user, undefined);
  });
}

test("a visitor id that is none is replaced", async () => {
  place.cookies.ps_vid = "undefined";
  place.stored.ps_vid = "null";
  started().track("lead");
  await settled();
  assert.match(bodies()[0]?.visitor_id ?? "", /^[0-9a-f-]{36}$/);
  assert.equal(place.stored.ps_vid, bodies()[0]?.visitor_id);
});

test("texts that no server takes are mended", async () => {
  const tag = started();
  tag.track("lead", { a: "x\0y", b: "x\ud800y", c: "x\udc00", d: "😀", e: "\\ud800 \\u0000", f: "\\\ud800" });
  await settled();
  const { a, b, c, d, e, f } = bodies()[0]?.events[0] ?? {};
  assert.deepEqual([a, b, c, d, e, f], ["xy", "xy", "x", "😀", "\\ud800 \\u0000", "\\"]);
});

for (const answer of ["network", { status: 500 }, { status: 503 }, { status: 429 }] as const) {
  test(`${JSON.stringify(answer)}: the same events again, later each time`, async () => {
    place.answers = [answer, answer];
    const tag = started();
    const id = tag.track("lead");
    await settled();
    await pass(999);
    assert.equal(place.sent.length, 1);
    await pass(1);
    assert.equal(place.sent.length, 2);
    await pass(1999);
    assert.equal(place.sent.length, 2);
    await pass(1);
    assert.deepEqual(bodies().map(({ events }) => events[0]?.event_id), [id, id, id]);
    await pass(600_000);
    assert.equal(place.sent.length, 3);
  });
}

test("Retry-After is waited for", async () => {
  place.answers = [{ status: 429, retryAfter: "7" }];
  started().track("lead");
  await settled();
  await pass(6999);
  assert.equal(place.sent.length, 1);
  await pass(1);
  assert.equal(place.sent.length, 2);
});

test(`no pause is longer than ${LONGEST_PAUSE_MS} ms`, async () => {
  place.answers = Array<"network">(40).fill("network");
  started().track("lead");
  await settled();
  for (let n = 1; n < 40; n++) await pass(LONGEST_PAUSE_MS);
  assert.equal(place.sent.length, 40);
});

test("while the collector is away new events join the next try", async () => {
  place.answers = ["network"];
  const tag = started();
  tag.track("lead");
  await settled();
  tag.track("checkout");
  await settled();
  assert.equal(place.sent.length, 1);
  await pass(1000);
  assert.deepEqual(bodies()[1]?.events.map(({ event }) => event), ["lead", "checkout"]);
});

for (const status of [200, 204, 207, 400, 403, 413]) {
  test(`${status} is the end of it`, async () => {
    place.answers = [{ status }];
    started().track("lead");
    await pass(600_000);
    assert.equal(place.sent.length, 1);
    assert.equal(place.said.length, status > 204 ? 1 : 0);
  });
}

test("what fails after a withdrawal is not kept", async () => {
  place.answers = ["network"];
  const tag = started();
  tag.track("lead");
  tag.setconsent(false);
  await settled();
  tag.setconsent(true);
  await pass(600_000);
  assert.deepEqual(names(), ["lead", "consent_withdrawn"]);
});

test("leaving sends at once, even while an identifier is being hashed", async () => {
  const tag = started();
  tag.set({ em: "a@example.com" });
  tag.track("pagevisit");
  tag.leave();
  assert.deepEqual(names(), ["pagevisit"]);
  assert.equal(bodies()[0]?.user, undefined);
});

test("without load nothing is taken", () => {
  const tag = client();
  tag.setconsent(true);
  tag.track("pagevisit", {}, (taken, reason) => assert.deepEqual([taken, reason], [false, "call load first"]));
  tag.leave();
  assert.deepEqual(place.sent, []);
});

test("a second load replaces the id and is logged", async () => {
  const tag = started();
  tag.load("other");
  tag.track("lead");
  await settled();
  assert.equal(bodies()[0]?.site, "other");
  assert.equal(place.said.length, 1);
});
