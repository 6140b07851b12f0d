// Shopify, Settings > Customer events > Add custom pixel: paste all of this, then Save and Connect.
// Permission: "Not required" (this pixel asks itself, and waits). Data sale: "Data collected qualifies as data sale".
// The sandbox sends `Origin: null`: the site must take it (pinstream sites add --null-origin).

{{sandbox}}

const allowed = ({ marketingAllowed, saleOfDataAllowed }) => marketingAllowed && saleOfDataAllowed;
const digits = (id) => String(id ?? "").split("/").pop();

/** A product variant, as the tag's line item. */
const item = (variant, quantity = 1) => ({
  product_id: digits(variant?.product?.id),
  product_name: variant?.product?.title,
  product_category: variant?.product?.type,
  product_brand: variant?.product?.vendor,
  product_variant: variant?.title,
  product_variant_id: digits(variant?.id),
  product_price: variant?.price?.amount,
  product_quantity: quantity,
});

const order = ({ checkout }) => ({
  value: checkout.totalPrice?.amount,
  currency: checkout.currencyCode,
  order_quantity: checkout.lineItems.reduce((sum, { quantity }) => sum + quantity, 0),
  line_items: checkout.lineItems.map(({ variant, quantity }) => item(variant, quantity)),
  em: checkout.email,
  ph: checkout.phone,
});

/** Shopify's standard events -> what is tracked. undefined: nothing. */
const EVENTS = {
  // a product's page is told by product_viewed, which knows the product
  page_viewed: ({ context }) => (/\/products\//.test(context.document.location.pathname) ? undefined : ["pagevisit", {}]),
  product_viewed: ({ data: { productVariant } }) => [
    "pagevisit",
    { value: productVariant.price.amount, currency: productVariant.price.currencyCode, line_items: [item(productVariant)] },
  ],
  collection_viewed: ({ data: { collection } }) => [
    "viewcategory",
    { property: collection.title, line_items: collection.productVariants.map((variant) => item(variant)) },
  ],
  search_submitted: ({ data: { searchResult } }) => ["search", { search_query: searchResult.query }],
  product_added_to_cart: ({ data: { cartLine } }) => [
    "addtocart",
    {
      value: cartLine.cost.totalAmount.amount,
      currency: cartLine.cost.totalAmount.currencyCode,
      line_items: [item(cartLine.merchandise, cartLine.quantity)],
    },
  ],
  checkout_started: ({ data }) => ["initiatecheckout", order(data)],
  payment_info_submitted: ({ data }) => ["addpaymentinfo", order(data)],
  // the order's id is the event's: whatever else tells this order, it counts once
  checkout_completed: ({ data }) => {
    const id = digits(data.checkout.order?.id);
    return ["checkout", { ...order(data), ...(id && { event_id: id, order_id: id }) }];
  },
};

/** What the shop's pages keep for the tag, and for this pixel, which is one. */
async function keptBefore(storage) {
  const names = await Promise.all(Array.from({ length: await storage.length() }, (_, n) => storage.key(n)));
  const ours = names.filter((name) => /^ps_vid/.test(name));
  return Object.fromEntries(await Promise.all(ours.map(async (name) => [name, await storage.getItem(name)])));
}

/** The sandbox has no page: what the tag needs of one is read first. */
async function start() {
  const { cookie, localStorage } = browser;
  let [visitor, epik, kept] = await Promise.all([
    cookie.get("ps_vid"),
    cookie.get("_epik"),
    keptBefore(localStorage),
  ]);
  const pintrk = pinstream.createClient({
    endpoint: "{{endpoint}}",
    url: () => context.document.location.href,
    referrer: () => context.document.referrer,
    cookie: () => `ps_vid=${visitor || ""}; _epik=${epik || ""}`,
    setCookie: (text) => {
      visitor = ""; // the tag sets it to forget it
      void cookie.set(text);
    },
    optedOut: () => navigator.globalPrivacyControl === true || navigator.doNotTrack === "1",
    kept,
    keep: (key, value) => void (value ? localStorage.setItem(key, value) : localStorage.removeItem(key)),{{said}}
  });
  if (allowed(init.customerPrivacy)) pintrk("setconsent", true, "adapter"); // else nobody may have asked yet
  pintrk("load", "{{site}}");
  globalThis.addEventListener?.("pagehide", () => pintrk.flush());
  return pintrk;
}

let context = init.context;
const ready = start();

customerPrivacy.subscribe("visitorConsentCollected", async (event) => {
  (await ready)("setconsent", allowed(event.customerPrivacy), "adapter");
});

for (const [name, told] of Object.entries(EVENTS)) {
  analytics.subscribe(name, async (event) => {
    const pintrk = await ready;
    context = event.context ?? context;
    const [tracked, data] = told(event) ?? [];
    if (tracked) pintrk("track", tracked, { event_id: event.id, ...data });
  });
}
