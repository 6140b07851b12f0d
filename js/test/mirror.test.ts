import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Frame, quick, served } from "./frame.ts";

beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
afterEach(() => mock.reset());

/** Lets promises run, and a second go by. */
async function later(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) {
    mock.timers.tick(100);
    await new Promise((done) => setImmediate(done));
  }
}

/** As a page has it: a function that keeps calls in its queue. */
const STUB = `
  if (!window.pintrk) {
    window.pintrk = function () { window.pintrk.queue.push(Array.prototype.slice.call(arguments)); };
    pintrk.queue = []; pintrk.version = "3.0";
  }`;

/** What is known of Pinterest's library: it starts while queue.push is native, and puts its own in its place. */
const LIBRARY = `
  if (window.pintrk.queue.push === Array.prototype.push) {
    window.official = [];
    const carryOut = (call) => void window.official.push(Array.from(call));
    const queue = window.pintrk.queue;
    window.pintrk.tagId = "from the library";
    queue.splice(0).forEach(carryOut);
    queue.push = (...calls) => (calls.forEach(carryOut), 0);
  }`;

interface Sent {
  site: string;
  events: { event: string; event_id: string }[];
}

class Page extends Frame {
  readonly posted: { url: string; body: Sent }[] = [];
  readonly logged: unknown[][] = [];

  constructor(...scripts: string[]) {
    super({
      crypto: quick,
      TextEncoder,
      URL,
      Request,
      RegExp,
      location: { href: "https://www.shop.example/p/1" },
      navigator: {},
      localStorage: {},
      addEventListener: () => undefined,
      console: { error: (...what: unknown[]) => this.logged.push(what) },
      fetch: async (url: string, { body }: { body: string }) => {
        this.posted.push({ url, body: JSON.parse(body) as Sent });
        return new Response(null, { status: 204 });
      },
    });
    for (const script of scripts) this.run(script);
  }

  mirror(dataset: Record<string, string> = { consent: "yes" }): this {
    this.run(served("mirror.js"), dataset);
    return this;
  }

  pintrk(...call: unknown[]): unknown {
    return this.window.pintrk(...call);
  }

  /** A call as Google Tag Manager writes it: an arguments object, straight into the queue. */
  gtm(...call: unknown[]): void {
    const { window } = this;
    (function (..._: unknown[]) {
      window.pintrk.queue.push(arguments);
    })(...call);
  }

  /** [name, id] of the events that Pinterest's library has, and of ours. */
  ids(): { official: unknown[][]; ours: unknown[][] } {
    const calls = this.official() as [string, string, { event_id: string }?][];
    return {
      official: calls.filter(([command]) => command === "track").map(([, name, data]) => [name, data?.event_id]),
      ours: this.posted.flatMap(({ body }) => body.events.map(({ event, event_id }) => [event, event_id])),
    };
  }

  /** The calls that Pinterest's library had. */
  official(): unknown[][] {
    return Array.from((this.window.official ?? []) as unknown[][], (call) => Array.from(call));
  }

  commands(): unknown[] {
    return this.official().map(([command]) => command);
  }
}

const UUID7 = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-8[\da-f]{3}-[\da-f]{12}$/;

/** Both have these events, in this order, each under one id. */
async function bothHave(page: Page, ...names: string[]): Promise<void> {
  await later();
  const { official, ours } = page.ids();
  assert.deepEqual(official.map(([name]) => name), names);
  assert.deepEqual(ours, official);
  assert.equal(new Set(official.map(([, id]) => id)).size, names.length);
}

test("whenever a call comes, both have it under one id", async () => {
  const page = new Page(STUB);
  page.pintrk("load", "2600000000001");
  page.pintrk("track", "before");
  page.gtm("track", "before_by_gtm", { value: 1 });
  page.mirror();
  page.pintrk("track", "between", { value: 2 });
  page.gtm("track", "between_by_gtm");
  page.run(LIBRARY);
  page.pintrk("track", "after");
  page.gtm("track", "after_by_gtm", { value: 3 });
  await later();
  page.pintrk("TRACK ", "late", {});
  page.gtm("track", "late_by_gtm", {});
  await later();
  const { official, ours } = page.ids();
  const names = ["before", "before_by_gtm", "between", "between_by_gtm", "after", "after_by_gtm", "late_by_gtm"];
  assert.deepEqual(official.map(([name]) => name), names); // "TRACK " is told as it was written
  assert.deepEqual(ours.filter(([name]) => name !== "late"), official);
  for (const [, id] of ours) assert.match(String(id), UUID7);
  assert.equal(page.posted[0]?.body.site, "2600000000001");
});

test("the library that is there already goes on", async () => {
  const page = new Page(STUB, LIBRARY).mirror({ site: "my-shop", consent: "yes" });
  page.pintrk("track", "a");
  page.gtm("track", "b");
  await bothHave(page, "a", "b");
  assert.equal(page.posted[0]?.body.site, "my-shop");
});

test("queue.push is the native one until the library comes", () => {
  const page = new Page(STUB).mirror();
  page.pintrk("track", "a");
  page.run("window.started = pintrk.queue.push === Array.prototype.push");
  assert.equal(page.window.started, true);
  page.run(LIBRARY);
  assert.equal(page.official().length, 1);
});

test("what the page and the library write on the function can be read", () => {
  const page = new Page(STUB).mirror();
  page.run('window.pintrk.partnerData = { np: "shop" }');
  page.run(LIBRARY);
  const { version, tagId, partnerData, queue, live } = page.window.pintrk;
  assert.deepEqual([version, tagId, partnerData.np, queue.length, live], ["3.0", "from the library", "shop", 0, true]);
});

test("data that a page uses twice is two events, and stays as it was", async () => {
  const page = new Page(STUB, LIBRARY).mirror({ site: "s", consent: "yes" });
  const data = Object.freeze({ value: 1 });
  page.pintrk("track", "a", data);
  page.pintrk("track", "b", data);
  await bothHave(page, "a", "b");
});

for (const key of ["event_id", "eventID", "eventId", "eid"]) {
  test(`an id that the page gives as ${key} is everybody's`, async () => {
    const page = new Page(STUB, LIBRARY).mirror({ site: "s", consent: "yes" });
    page.pintrk("track", "a", { [key]: "order-7" });
    await later();
    assert.deepEqual(page.ids(), { official: [["a", "order-7"]], ours: [["a", "order-7"]] });
  });
}

test("a callback is the library's alone, and what follows it stays", () => {
  const page = new Page(STUB, LIBRARY).mirror();
  const callback = (): never => assert.fail("the library calls it");
  page.pintrk("track", "a", {}, callback, "2600000000002");
  assert.deepEqual(page.official()[0]?.slice(3), [callback, "2600000000002"]);
});

test("consent: the page's word is for both, an adapter's is ours, wherever it waited", async () => {
  const page = new Page(STUB);
  page.pintrk("setconsent", true, "adapter");
  page.pintrk("load", "2600000000001");
  page.mirror({});
  page.run(LIBRARY);
  page.pintrk("track", "a");
  await bothHave(page, "a");
  page.pintrk("setconsent", false, "adapter");
  page.gtm("setconsent", "no", "adapter");
  page.pintrk("setconsent", false);
  assert.deepEqual(page.commands(), ["load", "track", "setconsent"]);
  page.pintrk("track", "b");
  await later();
  assert.deepEqual(page.ids().ours.map(([name]) => name), ["a", "consent_withdrawn"]);
});

test("with a site of its own the page's load says only who it is", async () => {
  const page = new Page(STUB, LIBRARY).mirror({ site: "my-shop", consent: "yes" });
  page.pintrk("load", "2600000000001", { em: "a@example.com" });
  page.pintrk("set", { external_id: "7" });
  page.pintrk("page");
  page.pintrk("track", "checkout");
  assert.deepEqual(page.commands(), ["load", "set", "page", "track"]);
  await later();
  const body = page.posted[0]?.body as Sent & { user: object };
  assert.deepEqual([body.site, Object.keys(body.user).sort()], ["my-shop", ["em", "external_id"]]);
});

test("a page whose stub comes later is mirrored then", async () => {
  const page = new Page().mirror({ site: "s", consent: "yes" });
  page.run(STUB);
  page.pintrk("track", "a");
  await later();
  page.run(LIBRARY);
  page.pintrk("track", "b");
  await bothHave(page, "a", "b");
});

test("twice on a page, or beside our own tag, it counts once", async () => {
  const page = new Page(STUB).mirror({ site: "s", consent: "yes" }).mirror({ site: "s", consent: "yes" });
  page.run(served("tag.js"), { site: "s", consent: "yes" });
  page.run(LIBRARY);
  page.pintrk("track", "a");
  await bothHave(page, "a");
});

test("what we cannot read, the library gets as it was", () => {
  const page = new Page(STUB, LIBRARY).mirror();
  const broken = {
    get value(): never {
      throw new Error("broken");
    },
  };
  page.pintrk("track", "a", broken);
  page.pintrk("nonsense", 1);
  page.pintrk();
  page.window.pintrk.queue.push("text");
  assert.equal(page.official()[0]?.[2], broken);
  assert.deepEqual(page.commands().slice(0, 3), ["track", "nonsense", undefined]);
});

test("it sends to where it came from", async () => {
  const page = new Page(STUB, LIBRARY).mirror({ site: "s", consent: "yes" });
  page.pintrk("track", "a");
  await later();
  assert.equal(page.posted[0]?.url, "https://t.shop.example/x/p/i");
});
