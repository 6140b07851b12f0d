/** The bodies that the tag produces are tests/wire/tag_*.json, which Python's tests read. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import type { Pintrk } from "../src/types.ts";
import { Shop, eachInStillTime, pass, type Body } from "./shop.ts";

eachInStillTime();

const MUG = {
  product_id: "mug",
  product_name: "Morning mug",
  product_category: "Ceramics",
  product_brand: "Fern & Clay",
  product_price: 18.5,
  product_quantity: 2,
};

const CALLS: Record<string, (pintrk: Pintrk) => void> = {
  page: (pintrk) => {
    pintrk("page");
    pintrk("track", "pagevisit", {});
    pintrk("track", "lead");
  },
  view_category: (pintrk) => {
    pintrk("track", "ViewCategory", { product_category: "Ceramics" });
    pintrk("track", "lead");
  },
  search: (pintrk) => {
    pintrk("track", "search", { search_query: "grüne Vase 😀" });
    pintrk("track", "lead");
  },
  add_to_cart: (pintrk) => {
    pintrk("track", "addtocart", { value: 37, currency: "EUR", line_items: [MUG] });
    pintrk("track", "lead");
  },
  signup: (pintrk) => {
    pintrk("set", { em: "Ada@Example.com", ph: "+1 202-555-0143" });
    pintrk("track", "signup", { lead_type: "newsletter", external_id: 42 });
  },
  checkout: (pintrk) => {
    const order = { value: "37.00", currency: "EUR", order_id: 1001, order_quantity: "2", promo_code: "SPRING" };
    pintrk("track", "checkout", { ...order, eventID: "order-1001", line_items: [MUG] });
  },
  custom: (pintrk) => {
    pintrk("track", "wishlist shared", { friends: 3, nested: { list: [1, "two", null, true] } });
    pintrk("track", "lead");
  },
};

/** `body` with the ids and times of the golden files: what chance and the clock make of them differs. */
function normalised(body: Body): Body {
  const user = body.user && { user: Object.fromEntries(Object.entries(body.user).sort()) };
  const events = body.events.map((event, n) => ({
    ...event,
    time: 1795291390500 + n,
    event_id: /^01a1ffb4-a224-7/.test(String(event.event_id))
      ? `01a1ffb4-a224-7000-8000-${n.toString(16).padStart(12, "0")}`
      : event.event_id,
  }));
  return { ...body, ...user, sent_at: 1795291391500, visitor_id: "0b5c0000-0000-4000-8000-000000000001", events };
}

const golden = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../../tests/wire/tag_${name}.json`, import.meta.url), "utf8"));

for (const [name, calls] of Object.entries(CALLS))
  test(`${name} is its golden file`, async () => {
    const shop = new Shop();
    shop.location.href = "https://www.shop.example/p/mug?epik=dj0yJnU9";
    const pintrk = shop.tag({ consent: "yes" });
    pintrk("load", "demo");
    calls(pintrk);
    await pass(0);
    assert.deepEqual(shop.bodies.map(normalised), [golden(name)]);
  });

test("a withdrawal is its golden file", async () => {
  const shop = new Shop();
  const pintrk = shop.tag({ consent: "yes" });
  pintrk("load", "demo");
  pintrk("track", "lead");
  await pass(0);
  pintrk("setconsent", false);
  await pass(0);
  assert.deepEqual(shop.bodies.slice(1).map(normalised), [golden("consent_withdrawn")]);
});
