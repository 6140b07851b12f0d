/** What other tabs, full storage, strange answers and strange pages do to the tag. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Shop, eachInStillTime, locks, pass } from "./shop.ts";

eachInStillTime();

test("a no in one tab holds in the others, and one of them tells", async () => {
  const [one, other] = [new Shop(), new Shop()];
  other.stored = one.stored;
  one.locks = other.locks = locks();
  const [here, there] = [one.started(), other.started()];
  here("set", { em: "a@example.com" });
  there("track", "lead");
  await pass(10);
  there("setconsent", false);
  one.fire("storage", { key: "ps_vid", newValue: null });
  here("track", "lead");
  await pass(2000);
  assert.deepEqual(one.names, []);
  assert.deepEqual(other.names, ["lead", "consent_withdrawn"]);
  assert.deepEqual(one.stored, {});
});

test("what was stored is sent once, also where nothing more can be stored", async () => {
  const shop = new Shop();
  shop.answers = ["never"];
  shop.started()("track", "lead");
  await pass(0);
  const full = new Proxy(shop.stored, {
    set: (kept, key, value) => {
      if (key in kept) return Reflect.set(kept, key, value);
      throw new DOMException("full", "QuotaExceededError");
    },
  });
  const sent: number[] = [];
  for (let page = 0; page < 3; page++) {
    const next = new Shop();
    next.stored = full;
    next.started()("track", "pagevisit");
    await pass(2000);
    sent.push(next.names.filter((name) => name === "lead").length);
  }
  assert.deepEqual(sent, [1, 0, 0]);
});

for (const retryAfter of ["86400", "9999999999", "Infinity"])
  test(`a collector that says Retry-After: ${retryAfter} is asked again after an hour`, async () => {
    const shop = new Shop();
    shop.answers = [{ status: 503, retryAfter }];
    shop.started()("track", "lead");
    await pass(0);
    await pass(3_590_000);
    assert.equal(shop.requests.length, 1);
    await pass(60_000);
    assert.equal(shop.requests.length, 2);
  });

test("an event's own id does not look like a reason", async () => {
  const shop = new Shop();
  const refused = { event_id: "log_1", status: "refused", reason: "bad_value" };
  shop.answers = [{ status: 207, text: JSON.stringify({ results: [refused] }) }];
  shop.started()("track", "lead", { event_id: "log_1" });
  await pass(120_000);
  assert.equal(shop.requests.length, 1);
});

test("the last identifier wins, whichever is ready first", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  const hash = "ab".repeat(32);
  pintrk("set", { em: "first@example.com" });
  pintrk("set", { em: hash });
  pintrk("track", "lead");
  await pass(2000);
  assert.deepEqual(shop.bodies[0]?.user, { em: [hash] });
});

test("what a page adds to all objects is neither stored nor sent", async () => {
  Object.assign(Object.prototype, { merge: () => 1 });
  try {
    const shop = new Shop();
    shop.stored = {};
    const pintrk = shop.tag();
    pintrk("load", "shop");
    pintrk("setconsent", true);
    pintrk("set", { external_id: "7" });
    pintrk("track", "lead");
    await pass(2000);
    assert.deepEqual(Object.keys(shop.bodies[0]?.user ?? {}), ["external_id"]);
    assert.deepEqual(Object.keys(shop.stored), ["ps_vid"]);
  } finally {
    delete (Object.prototype as { merge?: unknown }).merge;
  }
});

test("hashes and ids do without Array.from, which old libraries replace", async () => {
  const from = Array.from;
  Array.from = ((list: ArrayLike<unknown>) => [].slice.call(list)) as never;
  try {
    const shop = new Shop();
    const pintrk = shop.started();
    pintrk("set", { em: "a@example.com" });
    pintrk("track", "lead");
    await pass(2000);
    assert.match(shop.bodies[0]?.visitor_id ?? "", /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/);
    assert.match(shop.bodies[0]?.user?.em?.[0] ?? "", /^[\da-f]{64}$/);
  } finally {
    Array.from = from;
  }
});

test("what is no yes does not beat Global Privacy Control", async () => {
  const shop = new Shop();
  shop.gpc = true;
  const pintrk = shop.tag({ explicit_yes_overrides_gpc: "false" });
  pintrk("load", "shop");
  pintrk("setconsent", true);
  await pass(2000);
  assert.deepEqual(shop.stored, {});
});

test("data that wants to write itself is written by us", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  pintrk("track", "lead", { toJSON: () => undefined, value: 1 } as object);
  await pass(0);
  assert.deepEqual(shop.bodies[0]?.events.map(({ event, value }) => [event, value]), [["lead", 1]]);
});

test("a document without an origin asks without credentials", async () => {
  const shop = new Shop();
  shop.origin = "null";
  shop.started()("track", "lead");
  await pass(0);
  assert.equal(shop.requests[0]?.credentials, "omit");
});

test("pages without TLS, where nothing is hashed, send no identifier", async () => {
  const { subtle } = crypto;
  Object.defineProperty(crypto, "subtle", { value: undefined, configurable: true });
  try {
    const shop = new Shop();
    const pintrk = shop.started();
    pintrk("set", { em: "a@example.com", external_id: "ab".repeat(32) });
    pintrk("track", "lead");
    await pass(0);
    assert.deepEqual(shop.bodies[0]?.user, { external_id: ["ab".repeat(32)] });
    assert.equal(shop.logged.length, 1);
  } finally {
    Object.defineProperty(crypto, "subtle", { value: subtle, configurable: true });
  }
});

test("a no where nothing can be stored is told too", async () => {
  const shop = new Shop();
  shop.closeStorage();
  const pintrk = shop.started();
  pintrk("track", "lead");
  await pass(0);
  pintrk("setconsent", false);
  await pass(0);
  assert.deepEqual(shop.names, ["lead", "consent_withdrawn"]);
  assert.equal(shop.bodies[0]?.visitor_id, shop.bodies[1]?.visitor_id);
});

test("withdrawals of one visitor are one, however many pages say no before it is answered", async () => {
  const first = new Shop();
  first.cookies.ps_vid = "0b5c0000-0000-4000-8000-00000000000c";
  for (let page = 0; page < 3; page++) {
    const shop = new Shop();
    shop.stored = first.stored;
    shop.answers = ["never"];
    Object.assign(shop.cookies, first.cookies); // with a Domain scripts cannot take it
    shop.started()("setconsent", false);
    await pass(0);
  }
  assert.equal(Object.keys(first.stored).length, 1);
});

test("a no is heard in another tab before anything was sent", async () => {
  const [one, other] = [new Shop(), new Shop()];
  const told: unknown[] = [];
  other.stored = new Proxy(one.stored, {
    set: (kept, key, value: string) => {
      told.push([key, value]);
      return Reflect.set(kept, key, value);
    },
  });
  const [here, there] = [one.started(), other.started()];
  there("setconsent", false);
  for (const [key, newValue] of told as [string, string][]) one.fire("storage", { key, newValue });
  here("track", "lead");
  await pass(2000);
  assert.deepEqual([one.names, other.names, one.stored], [[], [], {}]);
});

test("what another program wrote on the shelf does not stop the rest", async () => {
  const shop = new Shop();
  shop.stored.ps_vid_q9999999999999 = "garbage";
  shop.started()("track", "lead");
  await pass(0);
  await pass(0);
  assert.ok(shop.requests.some(({ body }) => String(body).includes('"lead"')));
  assert.deepEqual(shop.kept, []);
});

test("a callback that throws takes nobody's id away", () => {
  const shop = new Shop();
  const id = shop.started()("track", "lead", {}, () => {
    throw new Error("the page's");
  });
  assert.match(id, /^[\da-f-]{36}$/);
  assert.equal(shop.logged.length, 1);
});

test("a request that failed is not sent again before its pause is over, whatever else is sent", async () => {
  const shop = new Shop();
  shop.answers = [{ status: 429, retryAfter: "60" }];
  const pintrk = shop.started();
  pintrk("track", "lead");
  await pass(0);
  for (let n = 0; n < 3; n++) shop.leave();
  assert.equal(shop.requests.length, 1);
  pintrk("track", "other");
  shop.leave();
  assert.deepEqual(shop.names, ["lead", "other"]);
  await pass(61_000);
  assert.deepEqual(shop.names, ["lead", "other", "lead"]);
});

test("before a yes, and at the yes itself, the storage is not even looked at", async () => {
  const shop = new Shop();
  let looks = 0;
  const kept = shop.stored;
  Object.defineProperty(shop, "stored", { get: () => (looks++, kept) });
  const pintrk = shop.tag();
  pintrk("load", "shop");
  pintrk("track", "page");
  pintrk("setconsent", true);
  assert.equal(looks, 0);
  await pass(1000);
  assert.equal(looks, 1);
});
