/** Commands, page visits, and taking the stub's place. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Frame, served } from "./frame.ts";
import { Shop, eachInStillTime, pass } from "./shop.ts";

eachInStillTime();

test("commands are understood in any case, with blanks around", async () => {
  const shop = new Shop();
  const pintrk = shop.tag() as (...call: unknown[]) => unknown;
  pintrk("LOAD", " shop ");
  pintrk("setConsent", true);
  pintrk(" Track ", "lead");
  await pass(0);
  assert.equal(shop.bodies[0]?.site, "shop");
});

test("what is no command is logged, and nothing throws", () => {
  const shop = new Shop();
  const pintrk = shop.tag() as (...call: unknown[]) => unknown;
  for (const call of [["dance"], [], ["toString"], [Symbol("s")], [null], ["track", "x", { n: 1n }]]) pintrk(...call);
  assert.equal(shop.logged.length, 6);
});

test("what a page's callback throws, the page's call does not", () => {
  const shop = new Shop();
  const pintrk = shop.started();
  pintrk("track", "x", {}, () => {
    throw new Error("the page's");
  });
  assert.equal(shop.logged.length, 1);
});

test("events before load wait for it", async () => {
  const shop = new Shop();
  const pintrk = shop.tag();
  pintrk("setconsent", true);
  pintrk("track", "lead");
  await pass(60_000);
  shop.leave();
  assert.deepEqual([shop.requests, shop.stored], [[], {}]);
  pintrk("load", "shop");
  await pass(0);
  assert.deepEqual(shop.names, ["lead"]);
});

test("a second load replaces the id", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  pintrk("load", 2600000000001);
  pintrk("track", "lead");
  await pass(0);
  assert.equal(shop.bodies[0]?.site, "2600000000001");
  assert.equal(pintrk.tagId, "2600000000001");
});

// --- visits -------------------------------------------------------------------------------------

const start = (shop: Shop, options = {}) => {
  const pintrk = shop.tag({ consent: "yes" });
  pintrk("load", "shop", options);
  return pintrk;
};
const HOME = "https://shop.example/";

/** The addresses of the visits that were sent. */
async function visits(shop: Shop): Promise<unknown[]> {
  await pass(1000);
  return shop.bodies.flatMap(({ events }) => events.filter(({ event }) => event === "pagevisit").map(({ url }) => url));
}

test("no visit is sent that nobody asked for", async () => {
  const shop = new Shop();
  start(shop);
  assert.deepEqual(await visits(shop), []);
});

test("with the Navigation API each new address is a visit", async () => {
  const shop = new Shop();
  const entries = new EventTarget();
  shop.navigation = entries as never;
  shop.history = { pushState: () => assert.fail("hooked"), replaceState: () => assert.fail("hooked") };
  shop.location.href = HOME;
  start(shop, { pagevisit: true });
  for (const url of ["a", "a", "a#reviews", "b?c=1", "a"]) {
    shop.location.href = HOME + url;
    entries.dispatchEvent(new Event("currententrychange"));
  }
  assert.deepEqual(await visits(shop), [HOME, `${HOME}a`, `${HOME}b?c=1`, `${HOME}a`]);
});

test("a page that comes back from the browser's cache is a visit, one that is shown for the first time no second", async () => {
  const shop = new Shop();
  shop.location.href = HOME;
  start(shop, { pagevisit: true });
  shop.fire("pageshow", { persisted: false });
  assert.deepEqual(await visits(shop), [HOME]);
  shop.fire("pageshow", { persisted: true });
  assert.deepEqual(await visits(shop), [HOME, HOME]);
});

test("without it, history is hooked: push, replace, back", async () => {
  const shop = new Shop();
  const calls: unknown[][] = [];
  const go = (...entry: unknown[]): void => {
    calls.push(entry);
    shop.location.href = HOME + String(entry[2]);
  };
  const history = { pushState: go, replaceState: go };
  shop.history = history;
  shop.location.href = HOME;
  start(shop, { pagevisit: "true" });
  history.pushState({ n: 1 }, "", "a");
  history.replaceState({ n: 2 }, "", "a");
  history.replaceState({ n: 3 }, "", "b");
  shop.location.href = HOME;
  shop.fire("popstate");
  assert.deepEqual(calls, [
    [{ n: 1 }, "", "a"],
    [{ n: 2 }, "", "a"],
    [{ n: 3 }, "", "b"],
  ]);
  assert.deepEqual(await visits(shop), [HOME, `${HOME}a`, `${HOME}b`, HOME]);
});

test("a second load does not visit twice", async () => {
  const shop = new Shop();
  const pintrk = start(shop, { pagevisit: true });
  pintrk("load", "shop", { pagevisit: true });
  assert.deepEqual((await visits(shop)).length, 1);
});

// --- the built file, in a window ------------------------------------------------------------------

class Page extends Frame {
  readonly posted: { url: string; body: { site: string; events: { event: string }[] } }[] = [];

  constructor(href = "https://www.shop.example/") {
    super({
      crypto,
      TextEncoder,
      URL,
      Request,
      location: { href },
      navigator: {},
      localStorage: {},
      addEventListener: () => undefined,
      console: { error: () => undefined },
      fetch: async (url: string, { body }: { body: string }) => {
        this.posted.push({ url, body: JSON.parse(body) });
        return new Response(null, { status: 204 });
      },
    });
  }

  get names(): string[] {
    return this.posted.flatMap(({ body }) => body.events.map(({ event }) => event));
  }
}

const STUB = served("stub.js").replace("{{script}}", "");
const withStub = `document.createElement = () => ({}); document.head = {appendChild() {}}; ${STUB}`;

test("the stub's calls are carried out in order, arrays and arguments, then those pushed into the queue", async () => {
  const page = new Page();
  page.run(
    `${withStub}
    pintrk.partnerData = {np: "shop"};
    pintrk("load", "demo"); pintrk("setconsent", true); pintrk("page");
    pintrk.queue.push(["track", "array"], null, 7, {});
    (function () { pintrk.queue.push(arguments) })("track", "arguments");
    window.kept = pintrk;`,
  );
  page.run(served("tag.js"));
  page.run(`pintrk.queue.push(["track", "later"]); kept("track", "kept"); pintrk("track", "lead");`);
  await pass(0);
  assert.deepEqual(page.names, ["init", "array", "arguments", "later", "kept", "lead"]);
  assert.equal(page.posted[0]?.url, "https://t.shop.example/x/p/i");
  const { live, version, tagId, partnerData } = page.window.pintrk;
  assert.deepEqual([live, version, tagId, partnerData.np], [true, "3.0", "demo", "shop"]);
});

test("without a stub, the script's attributes are enough", async () => {
  const page = new Page();
  page.run(served("tag.js"), { site: "demo", consent: "yes", pagevisit: "true" });
  await pass(0);
  assert.deepEqual([page.posted[0]?.body.site, page.names], ["demo", ["pagevisit"]]);
});

test("tag.js twice is once", async () => {
  const page = new Page();
  for (let n = 0; n < 2; n++) page.run(served("tag.js"), { site: "demo", consent: "yes", pagevisit: "true" });
  await pass(1000);
  assert.deepEqual(page.names, ["pagevisit"]);
});

test("tag.js says once where events go, as the server's setting needs it", () => {
  for (const name of ["tag.js", "tag.mjs", "mirror.js", "debug.js"])
    assert.equal(served(name).split('"p/i"').length, 2, name);
});
