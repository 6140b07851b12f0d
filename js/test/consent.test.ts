/** Who decides, and what a yes, a no, a change of mind and silence do. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Limit } from "../src/client.ts";
import type { Options } from "../src/types.ts";
import { Shop, eachInStillTime, pass } from "./shop.ts";

eachInStillTime();

const COOKIE = "0b5c0000-0000-4000-8000-00000000000c";

/** What an event meets: sent, waiting, or refused. */
async function fate(shop: Shop, options: Options, say: [value: unknown, by?: "adapter"][]): Promise<string> {
  const pintrk = shop.tag(options);
  for (const words of say) pintrk("setconsent", ...words);
  pintrk("load", "shop");
  let refused: string | undefined;
  pintrk("track", "lead", {}, (_, reason) => (refused = reason));
  await pass(0);
  return refused ?? (shop.names.includes("lead") ? "sent" : "waits");
}

for (const yes of [true, 1, "true", "1", "yes"])
  test(`setconsent(${JSON.stringify(yes)}) is a yes`, async () => {
    assert.equal(await fate(new Shop(), {}, [[yes]]), "sent");
  });

for (const no of [false, 0, "false", null, "no", "granted", "", {}, []])
  test(`setconsent(${JSON.stringify(no)}) is a no`, async () => {
    assert.equal(await fate(new Shop(), {}, [[no]]), "no consent");
  });

for (const unknown of [undefined, "unknown"])
  test(`setconsent(${JSON.stringify(unknown)}) is to wait`, async () => {
    assert.equal(await fate(new Shop(), {}, [[unknown]]), "waits");
  });

const yesWins = { explicit_yes_overrides_gpc: true };
for (const [about, options, say, gpc, expected] of [
  ["nothing is said", {}, [], false, "waits"],
  ["the site says yes", { consent: "yes" }, [], false, "sent"],
  ["the site says no", { consent: "no" }, [], false, "no consent"],
  ["the site says what nobody knows", { consent: "opt-out" }, [], false, "no consent"],
  ["an adapter says yes", {}, [[true, "adapter"]], false, "sent"],
  ["an adapter's no beats the site's yes", { consent: "yes" }, [[false, "adapter"]], false, "no consent"],
  ["an adapter that waits beats the site's yes", { consent: "yes" }, [[undefined, "adapter"]], false, "waits"],
  ["the page's yes beats an adapter's no", {}, [[false, "adapter"], [true]], false, "sent"],
  ["an adapter's later no does not beat the page's yes", {}, [[true], [false, "adapter"]], false, "sent"],
  ["the page's no beats an adapter's yes", {}, [[true, "adapter"], [false]], false, "no consent"],
  ["the page waits, whatever an adapter says", {}, [[undefined], [true, "adapter"]], false, "waits"],
  ["the last word of the page counts", {}, [[false], [true]], false, "sent"],
  ["GPC beats the page's yes", {}, [[true]], true, "no consent"],
  ["GPC beats the site's yes", { consent: "yes" }, [], true, "no consent"],
  ["GPC is a no where nothing is said", {}, [], true, "no consent"],
  ["the page's yes beats GPC where the site wants it", yesWins, [[true]], true, "sent"],
  ["the same, said by the script's element", { explicit_yes_overrides_gpc: "true" }, [[true]], true, "sent"],
  ["an adapter's yes does not beat GPC there", yesWins, [[true, "adapter"]], true, "no consent"],
  ["the site's yes does not beat GPC there", { ...yesWins, consent: "yes" }, [], true, "no consent"],
  ["the page's no is a no there", yesWins, [[false]], true, "no consent"],
] as [string, Options, [unknown, "adapter"?][], boolean, string][])
  test(`${about}: ${expected}`, async () => {
    const shop = new Shop();
    shop.gpc = gpc;
    assert.equal(await fate(shop, options, say), expected);
  });

test("DNT counts as GPC does", async () => {
  const shop = new Shop();
  shop.dnt = "1";
  assert.equal(await fate(shop, {}, [[true]]), "no consent");
});

test("load may say what the site wants", async () => {
  const shop = new Shop();
  const pintrk = shop.tag();
  pintrk("load", "shop", { consent: "yes" });
  pintrk("track", "lead");
  await pass(0);
  assert.deepEqual(shop.names, ["lead"]);
});

test("nothing is stored or sent while consent is unknown, all of it afterwards", async () => {
  const shop = new Shop();
  shop.location.href += "?epik=dj0y";
  const pintrk = shop.tag();
  pintrk("load", "shop", { em: "a@example.com" });
  pintrk("page");
  pintrk("track", "checkout");
  await pass(60_000);
  shop.leave();
  await pass(0);
  assert.deepEqual([shop.requests, shop.stored], [[], {}]);
  pintrk("setconsent", true);
  await pass(0);
  assert.deepEqual(shop.names, ["init", "checkout"]);
  const body = shop.bodies[0];
  assert.equal(body?.epik, "dj0y");
  assert.equal(body?.user?.em?.length, 1);
  assert.deepEqual(shop.stored, { ps_vid: body?.visitor_id, ps_vid_epik: "dj0y" });
});

test(`${Limit.UNASKED_EVENTS} events wait for consent, the next one is told no`, async () => {
  const shop = new Shop();
  const pintrk = shop.tag();
  pintrk("load", "shop");
  const told: unknown[] = [];
  for (let n = 0; n <= Limit.UNASKED_EVENTS; n++) pintrk("track", "x", {}, (...said) => told.push(said));
  assert.deepEqual(told[Limit.UNASKED_EVENTS - 1], [true, undefined]);
  assert.deepEqual(told[Limit.UNASKED_EVENTS], [false, "too much"]);
  pintrk("setconsent", true);
  for (let batch = 0; batch < Limit.UNASKED_EVENTS / Limit.BATCH_EVENTS; batch++) await pass(0);
  assert.equal(shop.names.length, Limit.UNASKED_EVENTS);
});

test("a no is no fault: nothing stands on the console, the callback says why", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  pintrk("setconsent", false);
  const told: unknown[] = [];
  pintrk("track", "lead", {}, (...said) => told.push(...said));
  assert.deepEqual([told, shop.logged], [[false, "no consent"], []]);
});

test("a no forgets what waited", async () => {
  const shop = new Shop();
  const pintrk = shop.tag();
  pintrk("load", "shop");
  pintrk("track", "lead");
  pintrk("setconsent", false);
  pintrk("setconsent", true);
  await pass(60_000);
  assert.deepEqual(shop.names, []);
});

test("withdrawal erases what is kept and says so once, with nothing else in it", async () => {
  const shop = new Shop();
  shop.location.href += "?epik=dj0y";
  shop.stored = { cart: "kept", ps_quotes: "the shop's own" };
  const pintrk = shop.started();
  pintrk("set", { em: "a@example.com" });
  pintrk("track", "lead");
  await pass(0);
  const visitor = shop.stored.ps_vid;
  pintrk("track", "pagevisit");
  pintrk("setconsent", false);
  pintrk("setconsent", false);
  pintrk("set", { em: "a@example.com" });
  await pass(60_000);
  assert.deepEqual(shop.stored, { cart: "kept", ps_quotes: "the shop's own" });
  assert.deepEqual(shop.names, ["lead", "consent_withdrawn"]);
  const last = shop.bodies[1];
  assert.deepEqual(Object.keys(last ?? {}).sort(), ["consent", "events", "sent_at", "site", "visitor_id"]);
  assert.deepEqual([last?.site, last?.visitor_id, last?.consent], ["shop", visitor, "no"]);
  assert.deepEqual(Object.keys(last?.events[0] ?? {}).sort(), ["event", "event_id", "time"]);
});

test("a withdrawal that was not delivered goes with the next visit, whatever that says, and outlives 48 hours", async () => {
  for (const later of [false, true, undefined]) {
    const first = new Shop();
    first.stored.ps_vid = COOKIE;
    first.answers = ["never"];
    first.started()("setconsent", false);
    await pass(0);
    assert.deepEqual(Object.keys(first.stored).length, 1);

    const second = new Shop();
    second.stored = first.stored;
    second.time += 72 * 3_600_000;
    const pintrk = second.tag();
    pintrk("load", "shop");
    pintrk("setconsent", later);
    await pass(60_000);
    const told = second.bodies.map(({ visitor_id, consent, events }) => [visitor_id, consent, events[0]?.event]);
    assert.deepEqual(told, later === undefined ? [] : [[COOKIE, "no", "consent_withdrawn"]]);
  }
});

test("a visitor of whom nothing was sent is nobody: no id is made, and no withdrawal", async () => {
  const shop = new Shop();
  const pintrk = shop.tag({ consent: "yes", pagevisit: true });
  pintrk("load", "shop");
  pintrk("setconsent", false);
  await pass(60_000);
  shop.leave();
  assert.deepEqual([shop.requests, shop.stored], [[], {}]);
});

test("a yes after a no knows the click that led here", async () => {
  const shop = new Shop();
  shop.location.href += "?epik=dj0y";
  const pintrk = shop.started();
  pintrk("setconsent", false);
  pintrk("setconsent", true);
  pintrk("track", "lead");
  await pass(0);
  assert.equal(shop.bodies[0]?.epik, "dj0y");
});

test("a withdrawal that nobody answers is sent again, and when the page is left", async () => {
  const shop = new Shop();
  shop.stored.ps_vid = COOKIE;
  shop.answers = ["network", { status: 503 }];
  const pintrk = shop.tag();
  pintrk("load", "shop");
  pintrk("setconsent", false);
  await pass(0);
  shop.leave();
  await pass(1000);
  await pass(2000);
  await pass(600_000);
  assert.deepEqual(shop.names, Array(3).fill("consent_withdrawn"));
  assert.equal(new Set(shop.bodies.map(({ events }) => events[0]?.event_id)).size, 1);
});

test("who says yes again is not withdrawn by what was not answered", async () => {
  const shop = new Shop();
  shop.stored.ps_vid = COOKIE;
  shop.answers = ["network"];
  const pintrk = shop.tag();
  pintrk("load", "shop");
  pintrk("setconsent", false);
  await pass(0);
  pintrk("setconsent", true);
  pintrk("track", "lead");
  await pass(600_000);
  assert.deepEqual(shop.bodies.map(({ consent }) => consent), ["no", "yes"]);
  assert.deepEqual(shop.names, ["consent_withdrawn", "lead"]);
});

test("a refusal with nobody known sends nothing", async () => {
  const shop = new Shop();
  const pintrk = shop.tag();
  pintrk("load", "shop");
  pintrk("setconsent", false);
  await pass(60_000);
  assert.deepEqual([shop.requests, shop.stored], [[], {}]);
});

test("the browser's privacy signal withdraws a visitor it finds", async () => {
  const shop = new Shop();
  shop.gpc = true;
  shop.cookies.ps_vid = COOKIE;
  shop.stored = { ps_vid_epik: "dj0y", ["ps_vid_q" + shop.time + "1"]: "{}" };
  const pintrk = shop.started();
  pintrk("track", "lead");
  await pass(60_000);
  assert.deepEqual(shop.names, ["consent_withdrawn"]);
  assert.equal(shop.bodies[0]?.visitor_id, COOKIE);
  assert.deepEqual([shop.cookies, shop.stored], [{}, {}]);
});

test("a cookie that a script cannot erase does not make the withdrawal come twice", async () => {
  const shop = new Shop();
  Object.defineProperty(shop.cookies, "ps_vid", { value: COOKIE, enumerable: true });
  const pintrk = shop.tag();
  pintrk("load", "shop");
  pintrk("setconsent", false);
  pintrk("setconsent", "no");
  pintrk("load", "shop");
  await pass(60_000);
  assert.deepEqual(shop.names, ["consent_withdrawn"]);
});

test("what fails after a withdrawal is not kept", async () => {
  const shop = new Shop();
  shop.answers = ["network"];
  const pintrk = shop.started();
  pintrk("track", "lead");
  await pass(0);
  pintrk("setconsent", false);
  await pass(0);
  pintrk("setconsent", true);
  await pass(600_000);
  assert.deepEqual(shop.names, ["lead", "consent_withdrawn"].slice(0, shop.names.length));
  assert.deepEqual(shop.kept, []);
});

test("after a yes that is taken back to unknown, new events wait in memory", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  pintrk("setconsent", undefined);
  pintrk("track", "lead");
  await pass(60_000);
  assert.deepEqual([shop.requests, shop.kept], [[], []]);
  pintrk("setconsent", true);
  await pass(0);
  assert.deepEqual(shop.names, ["lead"]);
});
