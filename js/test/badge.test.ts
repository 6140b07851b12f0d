import assert from "node:assert/strict";
import { test } from "node:test";

import { Frame, served } from "./frame.ts";

interface Span {
  dataset: Record<string, string>;
  textContent: string;
}

const span = (pinstreamProduct: string, text?: string): Span => ({
  dataset: { pinstreamProduct, ...(text === undefined ? {} : { text }) },
  textContent: "as it was",
});

/** A page with these elements, whose collector answers `status` and `body`; what it was asked. */
function page(spans: Span[], body: unknown, dataset: Record<string, string> = {}) {
  const urls: URL[] = [];
  const options: unknown[] = [];
  let changed = (): void => {};
  const frame = new Frame({
    URL,
    fetch: async (url: URL, how: unknown) => {
      urls.push(url);
      options.push(how);
      if (body instanceof Error) throw body;
      return { json: async () => body };
    },
    MutationObserver: class {
      constructor(heard: () => void) {
        changed = heard;
      }
      observe(): void {}
    },
  });
  Object.assign(frame.document, { querySelectorAll: () => spans });
  frame.run(served("badge.js"), { site: "my shop", ...dataset }, "https://t.shop.example/x/badge.js");
  const settled = () => new Promise((done) => setImmediate(done));
  return { urls, options, settled, change: () => changed() };
}

const products = (...names: string[]) => ({
  products: Object.fromEntries(names.map((name) => [name, { savers: "1,000+", at_least: 1000 }])),
});
const FIGURE = `${(1000).toLocaleString()}+`;

test("badge: what is popular gets a text, what is not keeps its own", async () => {
  const [lamp, rug, proto] = [span("lamp & co"), span("rug"), span("constructor")];
  const { urls, options, settled } = page([lamp, rug, proto], products("lamp & co"));
  await settled();
  assert.equal(lamp.textContent, `Saved by ${FIGURE} people on Pinterest`);
  assert.deepEqual([rug.textContent, proto.textContent], ["as it was", "as it was"]);
  assert.deepEqual(
    urls.map(String),
    ["https://t.shop.example/x/v1/popular?site=my+shop&product=lamp+%26+co&product=rug&product=constructor"],
  );
  assert.deepEqual({ ...(options[0] as object) }, { credentials: "omit" });
});

test("badge: the page's own words, of one element before those of the script", async () => {
  const [one, all, mute] = [span("a", "{n} fans"), span("b"), span("c", "")];
  await page([one, all, mute], products("a", "b", "c"), { text: "Épinglé {n} fois" }).settled();
  assert.deepEqual([one, all, mute].map((each) => each.textContent), [`${FIGURE} fans`, `Épinglé ${FIGURE} fois`, ""]);
});

test("badge: 50 products a request, each element once, later ones too", async () => {
  const spans = Array.from({ length: 101 }, (_, number) => span(`p${number}`));
  const { urls, settled, change } = page(spans, products("p100", "late"));
  await settled();
  assert.deepEqual(urls.map((url) => url.searchParams.getAll("product").length), [50, 50, 1]);
  assert.ok(spans[100]!.textContent.includes(FIGURE));
  change();
  assert.equal(urls.length, 3);
  spans.push(span("late"));
  change();
  await settled();
  assert.deepEqual(urls[3]!.searchParams.getAll("product"), ["late"]);
  assert.ok(spans[101]!.textContent.includes(FIGURE));
});

test("badge: a page without products asks nobody; a refusal or a fault changes nothing", async () => {
  const quiet = page([], products());
  await quiet.settled();
  assert.equal(quiet.urls.length, 0);
  for (const body of [{ reason: "unknown_site" }, new TypeError("Failed to fetch")]) {
    const lamp = span("lamp");
    await page([lamp], body).settled();
    assert.equal(lamp.textContent, "as it was");
  }
});
