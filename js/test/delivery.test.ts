/** When events travel, together with which others, what is kept until they have arrived, and what is never sent again. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Limit } from "../src/client.ts";
import { ENDPOINT, Shop, eachInStillTime, locks, pass } from "./shop.ts";

eachInStillTime();

/** An event as the tag writes it, with an id of the usual length. */
const size = (shop: Shop, event: string, text: string, event_id = "0".repeat(36)): string =>
  JSON.stringify({ text, event, event_id, time: shop.time, url: shop.location.href, referrer: shop.referrer });

test("events of a second travel together, in order", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  await pass(0);
  pintrk("page");
  pintrk("track", "pagevisit");
  await pass(Limit.FLUSH_MS - 1);
  assert.deepEqual(shop.names, []);
  await pass(1);
  assert.deepEqual(shop.bodies.map(({ events }) => events.length), [2]);
  assert.deepEqual(shop.names, ["init", "pagevisit"]);
});

test("a request needs no permission and outlives the page", async () => {
  const shop = new Shop();
  shop.started()("track", "lead");
  await pass(0);
  const { body, ...how } = shop.requests[0] ?? {};
  assert.equal(typeof body, "string"); // browsers send a text as text/plain
  assert.deepEqual(how, { method: "POST", credentials: "include", keepalive: true });
  assert.ok(ENDPOINT.endsWith("/p/i"));
});

test("a full batch does not wait, and is not more than full", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  await pass(0);
  for (let n = 0; n < Limit.BATCH_EVENTS - 1; n++) pintrk("track", "x");
  await pass(0);
  assert.deepEqual(shop.requests, []);
  pintrk("track", "x");
  pintrk("track", "x");
  await pass(0);
  await pass(0);
  assert.deepEqual(shop.bodies.map(({ events }) => events.length), [Limit.BATCH_EVENTS, 1]);
});

for (const name of ["checkout", "Checkout", "SignUp", "sign_up", "lead"])
  test(`${name} does not wait`, async () => {
    const shop = new Shop();
    shop.started()("track", name);
    await pass(0);
    assert.deepEqual(shop.names, [name]);
  });

test(`no request is larger than 40,000 bytes, however many bytes a character has`, async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  pintrk("set", { em: "a@example.com", external_id: "7" });
  for (let n = 0; n < 9; n++) pintrk("track", "x", { text: "€😀é".repeat(1000) }); // 9 kB each
  pintrk("track", "lead");
  for (let n = 0; n < 3; n++) await pass(0);
  const sizes = shop.requests.map(({ body }) => Buffer.byteLength(String(body)));
  assert.ok(Math.max(...sizes) <= 40_000, String(sizes));
  assert.deepEqual(shop.bodies.map(({ events }) => events.length), [4, 4, 2]);
});

test("a request may be filled to the last byte", () => {
  for (const more of [0, 1]) {
    const shop = new Shop();
    const pintrk = shop.started();
    pintrk("track", "one", { text: "x".repeat(30_000) });
    const gap = Limit.BATCH_BYTES - Buffer.byteLength(size(shop, "one", "x".repeat(30_000)) + size(shop, "two", "") + ",\n");
    pintrk("track", "two", { text: "x".repeat(gap + more) });
    shop.leave();
    assert.equal(shop.requests.length, 1 + more);
    for (const { body } of shop.requests) assert.ok(Buffer.byteLength(String(body)) <= 40_000);
  }
});

test(`an event of ${Limit.BATCH_BYTES} bytes is taken, a larger one is told no`, async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  const told: unknown[] = [];
  for (const more of [0, 1]) {
    const text = "x".repeat(Limit.BATCH_BYTES - size(shop, "my own", "", "1").length + more);
    pintrk("track", "my own", { text, event_id: "1" }, (...said) => told.push(said));
  }
  shop.leave();
  await pass(0);
  assert.deepEqual(told, [
    [true, undefined],
    [false, "too much"],
  ]);
  assert.equal(shop.names.length, 1);
});

test("what a page changes after the call changes nothing", async () => {
  const shop = new Shop();
  const data = { value: 1 };
  shop.started()("track", "lead", data);
  data.value = 2;
  await pass(0);
  assert.equal(shop.bodies[0]?.events[0]?.value, 1);
});

// --- answers ------------------------------------------------------------------------------------

for (const answer of ["network", { status: 500 }, { status: 503 }, { status: 429 }] as const)
  test(`${JSON.stringify(answer)}: the same events again, later each time`, async () => {
    const shop = new Shop();
    shop.answers = [answer, answer];
    const id = shop.started()("track", "lead");
    await pass(0);
    await pass(999);
    assert.equal(shop.requests.length, 1);
    await pass(1);
    assert.equal(shop.requests.length, 2);
    await pass(1999);
    assert.equal(shop.requests.length, 2);
    await pass(1);
    assert.deepEqual(shop.bodies.map(({ events }) => events[0]?.event_id), [id, id, id]);
    await pass(600_000);
    assert.equal(shop.requests.length, 3);
    assert.deepEqual(shop.kept, []);
  });

test("a part that the log did not take is sent again", async () => {
  const shop = new Shop();
  const text = JSON.stringify({ results: [{ event_id: "1", status: "refused", reason: "log_away" }] });
  shop.answers = [{ status: 207, text }];
  shop.started()("track", "lead");
  await pass(0);
  await pass(1000);
  assert.deepEqual(shop.names, ["lead", "lead"]);
});

test("Retry-After is waited for, and then a pause of chance", async () => {
  const shop = new Shop();
  shop.answers = [{ status: 429, retryAfter: "7" }];
  shop.started()("track", "lead");
  await pass(0);
  await pass(7999);
  assert.equal(shop.requests.length, 1);
  await pass(1);
  assert.equal(shop.requests.length, 2);
});

test("a Retry-After that is a date is a pause like any other", async () => {
  const shop = new Shop();
  shop.answers = [{ status: 503, retryAfter: "Wed, 21 Oct 2026 07:28:00 GMT" }];
  shop.started()("track", "lead");
  await pass(0);
  await pass(1000);
  assert.equal(shop.requests.length, 2);
});

const LONGEST_PAUSE_MS = 2 * Limit.PAUSE_MS * 2 ** Limit.DOUBLINGS;

test(`no pause is longer than ${LONGEST_PAUSE_MS} ms`, async () => {
  const shop = new Shop();
  shop.answers = Array<"network">(40).fill("network");
  shop.started()("track", "lead");
  await pass(0);
  for (let n = 1; n < 40; n++) await pass(LONGEST_PAUSE_MS);
  assert.equal(shop.requests.length, 40);
});

test("while the collector is away new events wait behind the first", async () => {
  const shop = new Shop();
  shop.answers = ["network"];
  const pintrk = shop.started();
  pintrk("track", "lead");
  await pass(0);
  pintrk("track", "checkout");
  pintrk("track", "lead");
  await pass(999);
  assert.equal(shop.requests.length, 1);
  await pass(1);
  await pass(0);
  const names = shop.bodies.map(({ events }) => events.map(({ event }) => event));
  assert.deepEqual(names, [["lead"], ["lead"], ["checkout", "lead"]]);
});

for (const status of [200, 204, 207, 400, 401, 403, 404, 408, 410, 413, 422])
  test(`${status} is the end of it`, async () => {
    const shop = new Shop();
    shop.answers = [{ status }];
    shop.started()("track", "lead");
    await pass(0);
    await pass(600_000);
    assert.equal(shop.requests.length, 1);
    assert.deepEqual(shop.kept, []);
    assert.deepEqual(shop.logged, status > 204 ? [[status, "said"]] : []);
  });

// --- leaving ------------------------------------------------------------------------------------

test("leaving sends at once what waits, and what is on its way not again", async () => {
  const shop = new Shop();
  shop.answers = ["never"];
  const pintrk = shop.started();
  pintrk("track", "lead");
  await pass(0);
  pintrk("track", "pagevisit");
  shop.leave();
  shop.leave();
  assert.deepEqual(shop.names, ["lead", "pagevisit"]);
});

test("leaving sends all batches in one go", () => {
  const shop = new Shop();
  const pintrk = shop.started();
  for (let n = 0; n < 2 * Limit.BATCH_EVENTS + 1; n++) pintrk("track", "x");
  shop.leave();
  assert.deepEqual(shop.bodies.map(({ events }) => events.length), [20, 20, 1]);
});

test("leaving does not wait for an identifier that is being hashed", () => {
  const shop = new Shop();
  const pintrk = shop.started();
  pintrk("set", { em: "a@example.com" });
  pintrk("track", "pagevisit");
  shop.leave();
  assert.deepEqual(shop.names, ["pagevisit"]);
  assert.equal(shop.bodies[0]?.user?.em, undefined);
});

test("a page is left when it is hidden, and when it is closed while it is hidden; not when it is shown", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  await pass(0);
  pintrk("track", "a");
  shop.hidden = false;
  shop.fire("visibilitychange");
  assert.deepEqual(shop.names, []);
  shop.hidden = true;
  shop.fire("visibilitychange");
  assert.deepEqual(shop.names, ["a"]);
  pintrk("track", "b");
  shop.fire("pagehide");
  assert.deepEqual(shop.names, ["a", "b"]);
});

// --- kept ---------------------------------------------------------------------------------------

test("what has no answer is kept for the next visit, and goes when it has one", async () => {
  const first = new Shop();
  first.answers = ["never"];
  const id = first.started()("track", "lead", { value: 3 });
  await pass(0);
  assert.equal(first.kept.length, 1);

  const second = new Shop();
  second.stored = first.stored;
  second.started();
  await pass(0);
  assert.deepEqual(second.bodies[0]?.events.map(({ event_id, value }) => [event_id, value]), [[id, 3]]);
  assert.deepEqual(second.kept, []);
});

test("what is kept is not sent before the next visit's yes, and erased by its no", async () => {
  const first = new Shop();
  first.answers = ["never"];
  first.started()("track", "lead");
  await pass(0);

  const second = new Shop();
  second.stored = first.stored;
  const pintrk = second.tag();
  pintrk("load", "shop");
  await pass(60_000);
  second.leave();
  assert.deepEqual([second.requests.length, second.kept.length], [0, 1]);
  pintrk("setconsent", false);
  await pass(60_000);
  assert.deepEqual(second.names, ["consent_withdrawn"]);
  assert.deepEqual(second.stored, {});
});

test(`${Limit.KEPT_EVENTS} events are kept, the next one is told no`, async () => {
  const shop = new Shop();
  shop.answers = ["never"];
  const pintrk = shop.started();
  const told: unknown[] = [];
  for (let n = 0; n <= Limit.KEPT_EVENTS; n++) {
    pintrk("track", n % 50 ? "x" : "lead", {}, (taken) => told.push(taken));
    if (n % 50 === 0) await pass(0);
  }
  shop.leave();
  assert.deepEqual([told.indexOf(false), told.length], [Limit.KEPT_EVENTS, Limit.KEPT_EVENTS + 1]);
  assert.equal(shop.names.length, Limit.KEPT_EVENTS);
  assert.equal(shop.kept.length, shop.requests.length);
});

test(`${Limit.KEPT_CHARS} characters are kept, what is past that is told no`, () => {
  const shop = new Shop();
  const pintrk = shop.started();
  const told: unknown[] = [];
  for (let n = 0; n < 13; n++) {
    pintrk("track", "x", { props: { text: "é".repeat(9_000) } }, (taken) => told.push(taken));
    if (n === 5) shop.leave();
  }
  assert.deepEqual(told, [...Array(11).fill(true), false, false]); // the last one may go beyond
});

test("what is kept longer than 48 hours is thrown away", async () => {
  const first = new Shop();
  first.answers = ["never", "never"];
  const pintrk = first.started();
  pintrk("track", "lead", { value: 1 });
  first.leave();
  first.time += 1;
  pintrk("track", "lead", { value: 2 });
  first.leave();

  const second = new Shop();
  second.stored = first.stored;
  second.time = first.time + Limit.KEPT_MS;
  second.started();
  await pass(0);
  assert.deepEqual(second.bodies[0]?.events.map(({ value }) => value), [2]);
  assert.deepEqual(second.kept, []);
});

test("events of one millisecond keep their order, also past the tenth", async () => {
  const shop = new Shop();
  const pintrk = shop.started();
  for (let n = 0; n < 15; n++) pintrk("track", `n${n}`);
  await pass(Limit.FLUSH_MS);
  assert.deepEqual(shop.names, Array.from({ length: 15 }, (_, n) => `n${n}`));
});

test("a full storage loses nothing while the page is there", async () => {
  const shop = new Shop();
  shop.stored = new Proxy({ cart: "large" } as Record<string, string>, {
    set: () => {
      throw new DOMException("full", "QuotaExceededError");
    },
  });
  shop.answers = ["network"];
  const pintrk = shop.started();
  pintrk("track", "lead");
  await pass(0);
  pintrk("track", "checkout");
  await pass(1000);
  await pass(600_000);
  assert.deepEqual(shop.names, ["lead", "lead", "checkout"]);
});

test("a closed storage is done without", async () => {
  const shop = new Shop();
  shop.closeStorage();
  const pintrk = shop.started();
  pintrk("track", "lead");
  await pass(0);
  pintrk("track", "lead");
  await pass(0);
  assert.equal(shop.bodies[0]?.visitor_id, shop.bodies[1]?.visitor_id);
});

// --- tabs ---------------------------------------------------------------------------------------

test("one tab sends for all, each event once", async () => {
  const [one, two] = [new Shop(), new Shop()];
  two.stored = one.stored;
  one.locks = two.locks = locks();
  const [first, second] = [one.started(), two.started()];
  first("track", "a");
  second("track", "b");
  first("track", "c");
  await pass(Limit.FLUSH_MS);
  const names = [...one.names, ...two.names];
  assert.deepEqual(names.sort(), ["a", "b", "c"]);
  assert.deepEqual(one.kept, []);
  assert.deepEqual(new Set((one.locks as ReturnType<typeof locks>).names), new Set(["ps_vid"]));
});

test("a tab that hangs in a request keeps the others waiting, one that pauses does not", async () => {
  const [one, two] = [new Shop(), new Shop()];
  two.stored = one.stored;
  one.locks = two.locks = locks();
  let answer = (): void => undefined;
  const held = new Promise<Response>((done) => (answer = () => done(new Response(null, { status: 503 }))));
  one.answers = [held];
  const [first, second] = [one.started(), two.started()];
  first("track", "lead");
  await pass(0);
  second("track", "checkout");
  await pass(60_000);
  assert.deepEqual([one.requests.length, two.requests.length], [1, 0]);
  answer();
  await pass(0);
  await pass(0);
  assert.deepEqual(two.names, ["lead", "checkout"]);
  await pass(60_000);
  assert.deepEqual(one.names, ["lead"]);
});

test("where locks are refused, events are sent without", async () => {
  const shop = new Shop();
  shop.locks = { request: () => Promise.reject(new DOMException("opaque origin", "SecurityError")) };
  shop.started()("track", "lead");
  await pass(0);
  assert.deepEqual(shop.names, ["lead"]);
});
