/** Who it is: ids of visitors, events and clicks, identifiers. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Limit } from "../src/client.ts";
import { Shop, eachInStillTime, pass } from "./shop.ts";

eachInStillTime();

const COOKIE = "0b5c0000-0000-4000-8000-00000000000c";
const UUID7 = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-8[\da-f]{3}-[\da-f]{12}$/;
const HASH = "b4c9a289323b21a01c3e940f150eb9b8c542587f1abfd8f0e1cc1ffc5e475514"; // of user@example.com

/** What one more event of this shop is sent with. */
async function sent(shop: Shop, pintrk = shop.started()) {
  pintrk("track", "lead");
  await pass(0);
  return shop.bodies.at(-1)!;
}

test("track gives the id that is sent, whatever its spelling", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  const made = pintrk("track", "pagevisit");
  assert.match(made, UUID7);
  assert.equal(parseInt(made.replace("-", "").slice(0, 12), 16), shop.time);
  const aliases = ["event_id", "eventID", "eventId", "eid"];
  for (const alias of aliases) assert.equal(pintrk("track", "x", { [alias]: alias }), alias);
  assert.equal(pintrk("track", "x", { event_id: 42 }), "42");
  await pass(Limit.FLUSH_MS);
  const events = shop.bodies[0]?.events ?? [];
  assert.deepEqual(events.map(({ event_id }) => event_id), [made, ...aliases, "42"]);
  for (const event of events)
    assert.deepEqual(Object.keys(event).sort(), ["event", "event_id", "referrer", "time", "url"]);
});

test("page sends init, and gives its id", async () => {
  const shop = new Shop();
  const id = shop.started()("page");
  await pass(0);
  assert.deepEqual(shop.bodies[0]?.events.map(({ event, event_id }) => [event, event_id]), [["init", id]]);
});

test("an id is given for what may not be sent, too", () => {
  const shop = new Shop();
  const pintrk = shop.tag();
  pintrk("load", "shop");
  pintrk("setconsent", false);
  assert.match(pintrk("track", "lead"), UUID7);
});

test("a visitor's id is minted once", async () => {
  const shop = new Shop();
  const { visitor_id } = await sent(shop);
  assert.match(visitor_id, UUID7);
  assert.equal(shop.stored.ps_vid, visitor_id);
  const later = new Shop();
  later.stored = shop.stored;
  assert.equal((await sent(later)).visitor_id, visitor_id);
});

test("the cookie's id replaces the one that is kept", async () => {
  const shop = new Shop();
  shop.stored.ps_vid = "0b5c0000-0000-4000-8000-000000000001";
  shop.cookies.a = "1";
  shop.cookies.ps_vid = COOKIE;
  shop.cookies.z = "1";
  assert.equal((await sent(shop)).visitor_id, COOKIE);
  assert.equal(shop.stored.ps_vid, COOKIE);
});

test("a visitor id that is none is replaced", async () => {
  const shop = new Shop();
  shop.cookies.ps_vid = "undefined";
  shop.stored.ps_vid = "null";
  assert.match((await sent(shop)).visitor_id, UUID7);
});

test("identifiers are hashed before they travel, in load, set and track", async () => {
  const shop = new Shop();
  const pintrk = shop.tag({ consent: "yes" });
  pintrk("load", "shop", { em: " Ada@Example.COM " });
  pintrk("set", { ph: "+49 (0151) 234", country: "DE" });
  pintrk("track", "signup", { external_id: 42 });
  await pass(0);
  const { user = {}, events } = shop.bodies[0]!;
  assert.deepEqual(Object.keys(user).sort(), ["country", "em", "external_id", "ph"]);
  for (const list of Object.values(user)) assert.match(list[0] ?? "", /^[0-9a-f]{64}$/);
  assert.equal(events[0]?.external_id, undefined);
});

for (const [raw, expected] of [
  ["user@example.com", [HASH]],
  [" USER@example.com\n", [HASH]],
  ["us er@example.com", [HASH]],
  [HASH, [HASH]],
  [HASH.toUpperCase(), [HASH]],
  [["user@example.com", "undefined"], [HASH]],
  ["undefined", undefined],
  ["null", undefined],
  ["n/a", undefined],
  ["a@b", undefined],
  ["@example.com", undefined],
  ["<user_email_address>", undefined],
  ["{{ customer.email }}", undefined],
  ["", undefined],
] as const)
  test(`em ${JSON.stringify(raw).slice(0, 30)} is sent as ${expected ? "its SHA-256" : "nothing"}`, async () => {
    const shop = new Shop();
    const pintrk = shop.started();
    pintrk("set", { em: raw as string | string[] });
    assert.deepEqual((await sent(shop, pintrk)).user?.em, expected);
  });

for (const key of ["external_id", "fn", "ct", "zp", "country"] as const)
  for (const raw of ["undefined", "NaN", "null", "N/A", "none", "(not set)", "0", "[object Object]", "{{id}}", "${id}", " "])
    test(`${key} ${JSON.stringify(raw)} is not sent`, async () => {
      const shop = new Shop();
      const pintrk = shop.started();
      pintrk("set", { [key]: raw });
      assert.equal((await sent(shop, pintrk)).user?.[key], undefined);
    });

for (const raw of ["0151 234", "+", "00", "n/a"])
  test(`ph ${JSON.stringify(raw)} is not sent`, async () => {
    const shop = new Shop();
    const pintrk = shop.started();
    pintrk("set", { ph: raw });
    assert.equal((await sent(shop, pintrk)).user?.ph, undefined);
  });

test("0049 and +49 are one number", async () => {
  const hashes = new Set<string>();
  for (const ph of ["+49 (0)151 234", "0049 151 234", "+49-151/234"]) {
    const shop = new Shop();
    const pintrk = shop.started();
    pintrk("set", { ph });
    hashes.add((await sent(shop, pintrk)).user?.ph?.[0] ?? "");
  }
  assert.equal(hashes.size, 1);
});

test("a value that breaks when it is read costs nobody else", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  pintrk("set", { em: Object.create(null) as string, external_id: "7" });
  assert.deepEqual(Object.keys((await sent(shop, pintrk)).user ?? {}), ["external_id"]);
});

test("another person in place of the first is sent alone", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  pintrk("set", { em: "first@example.com" });
  pintrk("set", { em: "user@example.com" });
  assert.deepEqual((await sent(shop, pintrk)).user?.em, [HASH]);
});

test("what is hashed while consent is withdrawn is gone", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  pintrk("set", { em: "user@example.com" });
  pintrk("setconsent", false);
  pintrk("setconsent", true);
  assert.deepEqual((await sent(shop, pintrk)).user, {});
});

test("an empty identifier takes back what was said before", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  pintrk("set", { em: "a@example.com", external_id: "7" });
  pintrk("set", { em: "" });
  pintrk("track", "x", { ph: undefined });
  assert.deepEqual(Object.keys((await sent(shop, pintrk)).user ?? {}), ["external_id"]);
});

test("what waits keeps whose it was", async () => {
  const first = new Shop();
  first.answers = ["never"];
  const pintrk = first.started();
  pintrk("set", { external_id: "a".repeat(64) });
  pintrk("track", "lead");
  await pass(0);
  const second = new Shop();
  second.stored = first.stored;
  second.location.href += "?epik=later";
  const later = second.tag();
  later("load", "other", { external_id: "b".repeat(64) });
  later("setconsent", true);
  later("track", "lead");
  await pass(0);
  await pass(0);
  const told = second.bodies.map(({ site, epik, user }) => [site, epik, user?.external_id?.[0]?.[0]]);
  assert.deepEqual(told, [
    ["shop", undefined, "a"],
    ["other", "later", "b"],
  ]);
});

// --- click ids ----------------------------------------------------------------------------------

test("the click id is kept for later pages", async () => {
  const first = new Shop();
  first.location.href = "https://shop.example/?utm=1&epik=dj0yJnU9#top";
  assert.equal((await sent(first)).epik, "dj0yJnU9");
  const second = new Shop();
  second.stored = first.stored;
  assert.equal((await sent(second)).epik, "dj0yJnU9");
});

test("a newer click replaces the one that is kept; Pinterest's own cookie is the last resort", async () => {
  const shop = new Shop();
  shop.stored.ps_vid_epik = "old";
  shop.cookies._epik = "cookie";
  shop.location.href += "?epik=new";
  assert.equal((await sent(shop)).epik, "new");
  const other = new Shop();
  other.cookies._epik = "cookie";
  assert.equal((await sent(other)).epik, "cookie");
});

test("a click id is cut to what the server takes, and none is none", async () => {
  const shop = new Shop();
  shop.location.href += `?epik=${"x".repeat(513)}`;
  assert.equal((await sent(shop)).epik?.length, 512);
  const other = new Shop();
  other.location.href += "?epik=&notepik=1";
  assert.ok(!("epik" in (await sent(other))));
});

test("addresses are cut to what the server takes", async () => {
  const shop = new Shop();
  shop.location.href += `?${"x".repeat(3000)}`;
  shop.referrer = shop.location.href;
  const { url, referrer } = (await sent(shop)).events[0]!;
  assert.deepEqual([String(url).length, String(referrer).length], [Limit.URL_CHARS, Limit.URL_CHARS]);
});
