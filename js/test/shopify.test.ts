/** The custom pixel as `pinstream snippet` prints it, in a sandbox with Shopify's APIs and no page. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Frame, quick, served } from "./frame.ts";

const TEXT = readFileSync(new URL("../../../src/pinstream/collect/snippets/shopify.js", import.meta.url), "utf8")
  .replace("{{sandbox}}", () => served("sandbox.js"))
  .replace("{{endpoint}}", "https://t.shop.example/p/i")
  .replace("{{said}}", "")
  .replace("{{site}}", "my-shop");

const VISITOR = "0b5c0000-0000-4000-8000-00000000000c";

beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
afterEach(() => mock.reset());

async function later(): Promise<void> {
  for (let turn = 0; turn < 30; turn++) {
    mock.timers.tick(100);
    await new Promise((done) => setImmediate(done));
  }
}

interface Sent {
  site: string;
  visitor_id: string;
  epik?: string;
  user?: Record<string, string[]>;
  events: Record<string, unknown>[];
}

class Sandbox extends Frame {
  readonly posted: { url: string; body: Sent; headers: unknown }[] = [];
  readonly stored: Record<string, string> = {};
  private readonly subscribed = new Map<string, (event: object) => unknown>();
  private pagehide = (): void => assert.fail("nobody listens");

  constructor(privacy: object, stored: Record<string, string> = {}, globals: object = {}) {
    const subscribe = (name: string, listener: (event: object) => unknown): void =>
      void this.subscribed.set(name, listener);
    super({
      crypto: quick,
      TextEncoder,
      URL,
      navigator: {},
      console: { error: () => undefined },
      addEventListener: (name: string, listener: () => void) => name === "pagehide" && (this.pagehide = listener),
      fetch: async (url: string, { body, headers }: { body: string; headers: unknown }) => {
        this.posted.push({ url, body: JSON.parse(body) as Sent, headers });
        return new Response(null, { status: 204 });
      },
      init: { customerPrivacy: privacy, context: page("/") },
      analytics: { subscribe },
      customerPrivacy: { subscribe },
      browser: {
        cookie: { get: async (name: string) => (name === "_epik" ? "dj0y" : ""), set: async () => undefined },
        localStorage: {
          getItem: async (key: string) => this.stored[key] ?? null,
          setItem: async (key: string, value: string) => void (this.stored[key] = value),
          removeItem: async (key: string) => void delete this.stored[key],
          key: async (n: number) => Object.keys(this.stored)[n] ?? null,
          length: async () => Object.keys(this.stored).length,
        },
      },
      ...globals,
    });
    Object.assign(this.stored, stored);
    delete this.window.document; // there is none
    delete this.window.window;
    this.run(TEXT);
  }

  async publish(name: string, event: object): Promise<void> {
    await this.subscribed.get(name)?.(event);
    await later();
  }

  leave(): void {
    this.pagehide();
  }

  events(): Record<string, unknown>[] {
    return this.posted.flatMap(({ body }) => body.events);
  }
}

const page = (pathname: string): object => ({
  document: {
    location: { href: `https://www.shop.example${pathname}?a=b`, pathname },
    referrer: "https://www.pinterest.example/",
  },
});
const ALLOWED = { marketingAllowed: true, saleOfDataAllowed: true };
const ASKED = { marketingAllowed: false, saleOfDataAllowed: true };

const variant = {
  id: "gid://shopify/ProductVariant/22",
  title: "Blue",
  price: { amount: 12.5, currencyCode: "EUR" },
  product: { id: "gid://shopify/Product/11", title: "Bowl", type: "Tableware", vendor: "Kiln" },
};
const ITEM = {
  product_id: "11",
  product_name: "Bowl",
  product_category: "Tableware",
  product_brand: "Kiln",
  product_variant: "Blue",
  product_variant_id: "22",
  product_price: 12.5,
};
const checkout = {
  totalPrice: { amount: 42.5 },
  currencyCode: "EUR",
  email: "ada@shop.example",
  phone: "+49 151 234567",
  lineItems: [
    { quantity: 2, variant },
    { quantity: 1, variant },
  ],
  order: { id: "gid://shopify/Order/5678" },
};

for (const [name, event, expected] of [
  ["page_viewed", { context: page("/about") }, { event: "pagevisit", url: "https://www.shop.example/about?a=b" }],
  [
    "product_viewed",
    { data: { productVariant: variant } },
    { event: "pagevisit", value: 12.5, currency: "EUR", line_items: [{ ...ITEM, product_quantity: 1 }] },
  ],
  [
    "collection_viewed",
    { data: { collection: { title: "Bowls", productVariants: [variant] } } },
    { event: "viewcategory", property: "Bowls", line_items: [{ ...ITEM, product_quantity: 1 }] },
  ],
  ["search_submitted", { data: { searchResult: { query: "bowl" } } }, { event: "search", search_query: "bowl" }],
  [
    "product_added_to_cart",
    {
      data: {
        cartLine: { merchandise: variant, quantity: 3, cost: { totalAmount: { amount: 37.5, currencyCode: "EUR" } } },
      },
    },
    { event: "addtocart", value: 37.5, currency: "EUR", line_items: [{ ...ITEM, product_quantity: 3 }] },
  ],
  ["checkout_started", { data: { checkout } }, { event: "initiatecheckout", value: 42.5, order_quantity: 3 }],
  ["payment_info_submitted", { data: { checkout } }, { event: "addpaymentinfo", value: 42.5 }],
  [
    "checkout_completed",
    { data: { checkout } },
    { event: "checkout", event_id: "5678", order_id: "5678", value: 42.5, currency: "EUR", order_quantity: 3 },
  ],
] as const) {
  test(`${name} is told as ${expected.event}`, async () => {
    const sandbox = new Sandbox(ALLOWED);
    await sandbox.publish(name, { id: "sh-1", context: page("/x"), ...event });
    const [told, ...more] = sandbox.events();
    assert.deepEqual(more, []);
    assert.equal(sandbox.posted[0]?.url, "https://t.shop.example/p/i");
    assert.equal(sandbox.posted[0]?.headers, undefined); // no preflight
    assert.deepEqual({ ...told, ...{ event_id: "sh-1", ...expected } }, { ...told, event_id: told?.event_id });
    assert.equal(told?.event_id, "event_id" in expected ? expected.event_id : "sh-1");
    assert.deepEqual([sandbox.posted[0]?.body.site, sandbox.posted[0]?.body.epik], ["my-shop", "dj0y"]);
  });
}

test("a product's page is told once, with its product", async () => {
  const sandbox = new Sandbox(ALLOWED);
  await sandbox.publish("page_viewed", { id: "1", context: page("/fr/products/bowl") });
  await sandbox.publish("product_viewed", { id: "2", context: page("/fr/products/bowl"), data: { productVariant: variant } });
  assert.deepEqual(sandbox.events().map(({ event_id }) => event_id), ["2"]);
});

test("an order without an id is told under Shopify's id of the event", async () => {
  const sandbox = new Sandbox(ALLOWED);
  await sandbox.publish("checkout_completed", { id: "sh-9", data: { checkout: { ...checkout, order: null } } });
  assert.equal(sandbox.events()[0]?.event_id, "sh-9");
});

test("nothing is sent or stored before the visitor agreed; then all of it", async () => {
  const sandbox = new Sandbox(ASKED);
  await sandbox.publish("page_viewed", { id: "1", context: page("/") });
  assert.deepEqual([sandbox.posted, sandbox.stored], [[], {}]);
  await sandbox.publish("visitorConsentCollected", { customerPrivacy: ALLOWED });
  assert.deepEqual(sandbox.events().map(({ event_id }) => event_id), ["1"]);
  assert.equal(sandbox.stored.ps_vid, sandbox.posted[0]?.body.visitor_id);
  assert.deepEqual(Object.keys(sandbox.stored).sort(), ["ps_vid", "ps_vid_epik"]); // what was answered is gone
});

test("a visitor who declines is sent nothing about", async () => {
  const sandbox = new Sandbox(ASKED);
  await sandbox.publish("page_viewed", { id: "1", context: page("/") });
  await sandbox.publish("visitorConsentCollected", { customerPrivacy: ASKED });
  await sandbox.publish("visitorConsentCollected", { customerPrivacy: { ...ALLOWED, saleOfDataAllowed: false } });
  assert.deepEqual(sandbox.posted, []);
});

test("Global Privacy Control is a no", async () => {
  const sandbox = new Sandbox(ALLOWED, {}, { navigator: { globalPrivacyControl: true } });
  await sandbox.publish("page_viewed", { id: "1", context: page("/") });
  assert.deepEqual(sandbox.posted, []);
});

test("the visitor is the one that the tag on the shop's pages knows", async () => {
  const sandbox = new Sandbox(ALLOWED, { ps_vid: VISITOR });
  await sandbox.publish("page_viewed", { id: "1", context: page("/") });
  assert.equal(sandbox.posted[0]?.body.visitor_id, VISITOR);
});

test("who ordered is hashed before it leaves", async () => {
  const sandbox = new Sandbox(ALLOWED);
  await sandbox.publish("checkout_completed", { id: "1", data: { checkout } });
  const { em, ph } = sandbox.posted[0]?.body.user ?? {};
  for (const [hash] of [em ?? [], ph ?? []]) assert.match(hash ?? "", /^[\da-f]{64}$/);
  assert.doesNotMatch(JSON.stringify(sandbox.posted), /ada@|151 ?234567/);
});

test("what waits when the page is left goes at once", async () => {
  const sandbox = new Sandbox(ALLOWED);
  await later();
  const publishing = sandbox.publish("page_viewed", { id: "1", context: page("/") });
  for (let turn = 0; turn < 5; turn++) await Promise.resolve();
  sandbox.leave();
  assert.equal(sandbox.posted.length, 1);
  await publishing;
  assert.equal(sandbox.events().length, 1);
});
