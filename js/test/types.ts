/** Checked by tsc alone: what fits, and what must not. Each wrong field is an error, or `npm run types` fails. */

import type { Pintrk } from "../src/types.ts";

declare const pintrk: Pintrk;
declare const anyName: string;

pintrk("load", "shop", { em: "a@example.com", consent: "yes", pagevisit: true });
pintrk("load", 2600000000001);
pintrk("set", { em: ["a@example.com"], country: "DE" });
pintrk("setconsent", undefined, "adapter");
const id: string = pintrk("track", "checkout", { value: "37.00", currency: "EUR", order_id: 1001, order_quantity: 2 });
pintrk("track", "AddToCart", { line_items: [{ product_id: "mug", product_price: 18.5, product_quantity: 2 }] }, (taken, reason) =>
  taken ? id : reason?.length,
);
pintrk("track", "pagevisit", { product_id: "mug", props: { anything: [1, { two: 3 }] } });
pintrk("track", "lead", null);
pintrk("track", "wishlist shared", { friends: 3, nested: { list: [1] } });
pintrk("track", anyName, { anything: true });

// @ts-expect-error a command that is none
pintrk("dance");
// @ts-expect-error an identifier that is none
pintrk("set", { emial: "a@example.com" });
// @ts-expect-error an option that is none
pintrk("load", "shop", { pagevisits: true });
// @ts-expect-error a custom event's known field has its type
pintrk("track", "my own", { value: {} });
// @ts-expect-error a field of a line item that is none
pintrk("track", "checkout", { line_items: [{ product_ids: "mug" }] });
// @ts-expect-error a field of the wrong type
pintrk("track", "checkout", { value: true });
// @ts-expect-error line items are a list
pintrk("track", "checkout", { line_items: "mug" });
// @ts-expect-error only an adapter says so
pintrk("setconsent", true, "cmp");

// Every standard event, in one spelling or another:
// @ts-expect-error
pintrk("track", "pagevisit", { valeu: 1 });
// @ts-expect-error
pintrk("track", "PageVisit", { valeu: 1 });
// @ts-expect-error
pintrk("track", "page_visit", { valeu: 1 });
// @ts-expect-error
pintrk("track", "viewcategory", { valeu: 1 });
// @ts-expect-error
pintrk("track", "search", { query: "vase" });
// @ts-expect-error
pintrk("track", "add-to-cart", { valeu: 1 });
// @ts-expect-error
pintrk("track", "addtocart", { valeu: 1 });
// @ts-expect-error
pintrk("track", "checkout", { valeu: 1 });
// @ts-expect-error
pintrk("track", "WatchVideo", { valeu: 1 });
// @ts-expect-error
pintrk("track", "Signup", { valeu: 1 });
// @ts-expect-error
pintrk("track", "lead", { valeu: 1 });
// @ts-expect-error
pintrk("track", "custom", { valeu: 1 });
// @ts-expect-error
pintrk("track", "AddPaymentInfo", { valeu: 1 });
// @ts-expect-error
pintrk("track", "AddToWishList", { valeu: 1 });
// @ts-expect-error
pintrk("track", "InitiateCheckout", { valeu: 1 });
// @ts-expect-error
pintrk("track", "subscribe", { valeu: 1 });
// @ts-expect-error
pintrk("track", "ViewContent", { valeu: 1 });
// @ts-expect-error
pintrk("track", "OrderCancelled", { valeu: 1 });
// @ts-expect-error
pintrk("track", "order_refunded", { valeu: 1 });
// @ts-expect-error
pintrk("track", "app_install", { valeu: 1 });
// @ts-expect-error
pintrk("track", "app_open", { valeu: 1 });
// @ts-expect-error
pintrk("track", "contact", { valeu: 1 });
// @ts-expect-error
pintrk("track", "customize product", { valeu: 1 });
// @ts-expect-error
pintrk("track", "FindLocation", { valeu: 1 });
// @ts-expect-error
pintrk("track", "schedule", { valeu: 1 });
// @ts-expect-error
pintrk("track", "StartTrial", { valeu: 1 });
// @ts-expect-error
pintrk("track", "SubmitApplication", { valeu: 1 });
// @ts-expect-error
pintrk("track", "init", { valeu: 1 });
