import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Frame, served } from "./frame.ts";

beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
afterEach(() => mock.reset());

/** Time goes on in the steps of a wait. */
function pass(ms: number): void {
  for (let step = 0; step < ms; step += 100) mock.timers.tick(100);
}

/** A page with a tag that notes what it is told. */
function page(globals: Record<string, unknown> = {}): Frame & { said: unknown[][] } {
  const said: unknown[][] = [];
  const frame = new Frame({ pintrk: (...call: unknown[]) => said.push(call), ...globals });
  return Object.assign(frame, { said });
}

const told = (...words: (boolean | undefined)[]): unknown[][] => words.map((word) => ["setconsent", word, "adapter"]);

// --- Google Consent Mode v2 ---------------------------------------------------------------------

type Signals = Record<string, string | string[]>;
const BOTH = (word: string): Signals => ({ ad_storage: word, ad_user_data: word });

/** What gtag() does. */
function gtag(frame: Frame, ...call: unknown[]): void {
  (function (..._: unknown[]) {
    frame.window.dataLayer.push(arguments);
  })(...call);
}

test("consent mode: what the data layer holds already, and what comes later", () => {
  const frame = page({ dataLayer: [["consent", "default", BOTH("denied")], { event: "gtm.js" }, undefined, null, "x"] });
  frame.run(served("adapters/consent-mode.js"));
  assert.deepEqual(frame.said, []); // the visitor has not been asked yet
  gtag(frame, "consent", "update", BOTH("granted"));
  gtag(frame, "consent", "update", { analytics_storage: "denied" });
  gtag(frame, "event", "purchase", BOTH("denied"));
  assert.deepEqual(frame.said, told(true));
  gtag(frame, "consent", "update", { ad_user_data: "denied" });
  assert.deepEqual(frame.said, told(true, false));
});

test("consent mode: one signal of the two is not enough", () => {
  const frame = page();
  frame.run(served("adapters/consent-mode.js"));
  gtag(frame, "consent", "default", { ad_storage: "granted" });
  assert.deepEqual(frame.said, []);
  gtag(frame, "consent", "update", { ad_user_data: "granted" });
  assert.deepEqual(frame.said, told(true));
});

test("consent mode: a default that grants is a yes, but not where a region's default denies", () => {
  const granted = page({ dataLayer: [["consent", "default", BOTH("granted")]] });
  granted.run(served("adapters/consent-mode.js"));
  assert.deepEqual(granted.said, told(true));
  for (const order of [0, 1]) {
    const defaults = [
      ["consent", "default", { ...BOTH("denied"), region: ["FR"] }],
      ["consent", "default", BOTH("granted")],
    ];
    const regional = page({ dataLayer: order ? defaults : defaults.reverse() });
    regional.run(served("adapters/consent-mode.js"));
    assert.notDeepEqual(regional.said.at(-1), told(true)[0]);
  }
});

test("consent mode: the data layer goes on as it was, under its own name", () => {
  const pushed: unknown[] = [];
  const layer = Object.assign([] as unknown[], {
    push: (...items: unknown[]) => {
      pushed.push(...items);
      return 77;
    },
  });
  const frame = page({ shopLayer: layer });
  frame.run(served("adapters/consent-mode.js"), { layer: "shopLayer" });
  assert.equal(frame.window.shopLayer.push({ event: "a" }, ["consent", "update", BOTH("granted")]), 77);
  assert.equal(pushed.length, 2);
  assert.deepEqual(frame.said, told(true));
  assert.equal(frame.window.dataLayer, undefined);
});

// --- IAB TCF 2.2 --------------------------------------------------------------------------------

/** A consent platform; `tell` is what it does when something changes. */
function platform(): { api: unknown; tell: (data: object, success?: boolean) => void } {
  let heard: (data: object, success: boolean) => void = () => assert.fail("nobody listens");
  return {
    api: (command: string, version: number, listener: typeof heard) => {
      assert.deepEqual([command, version], ["addEventListener", 2]);
      heard = listener;
    },
    tell: (data, success = true) => heard(data, success),
  };
}

function tcData(eventStatus: string, consents: number[], interests: number[] = [], gdprApplies: unknown = true): object {
  const on = (ids: number[]): object => Object.fromEntries(ids.map((id) => [id, true]));
  return { eventStatus, gdprApplies, purpose: { consents: on(consents), legitimateInterests: on(interests) } };
}

for (const [what, data, expected] of [
  ["all purposes", tcData("tcloaded", [1, 2, 3, 4, 7]), told(true)],
  ["measuring by legitimate interest", tcData("useractioncomplete", [1, 3, 4], [7]), told(true)],
  ["storage by legitimate interest only", tcData("useractioncomplete", [3, 4, 7], [1]), told(false)],
  ["no profile", tcData("useractioncomplete", [1, 2, 7]), told(false)],
  ["no measuring", tcData("useractioncomplete", [1, 3, 4]), told(false)],
  ["nothing", tcData("useractioncomplete", []), told(false)],
  ["the banner is open", tcData("cmpuishown", [1, 3, 4, 7]), []],
  ["the GDPR does not apply: nothing else is said then", { gdprApplies: false }, told(true)],
  ["nobody knows whether the GDPR applies", tcData("tcloaded", [], [], undefined), told(false)],
] as const) {
  test(`tcf: ${what}`, () => {
    const { api, tell } = platform();
    const frame = page({ __tcfapi: api });
    frame.run(served("adapters/tcf.js"));
    tell(data);
    assert.deepEqual(frame.said, expected);
  });
}

test("tcf: a platform that comes later, fails, asks again and hears another answer", () => {
  const { api, tell } = platform();
  const frame = page();
  frame.run(served("adapters/tcf.js"));
  pass(5000);
  frame.window.__tcfapi = api;
  mock.timers.tick(100);
  tell(tcData("tcloaded", [1, 3, 4, 7]), false);
  assert.deepEqual(frame.said, []);
  tell(tcData("tcloaded", [1, 3, 4, 7]));
  tell(tcData("cmpuishown", [1, 3, 4, 7]));
  tell(tcData("useractioncomplete", []));
  assert.deepEqual(frame.said, told(true, false));
});

// --- WP Consent API -----------------------------------------------------------------------------

/** The API's functions as its documentation describes them. */
function wordpress(frame: Frame, type: string): { set(category: string, word: string): void } {
  const { window, document } = frame;
  Object.assign(window, {
    consent_api: { cookie_prefix: "wp_consent" },
    wp_consent_type: type,
    wp_has_consent: (category: string) => {
      const known = new RegExp(`wp_consent_${category}=(\\w+)`).exec(document.cookie)?.[1];
      return !window.wp_consent_type || known === "allow" || (!known && /optout/.test(window.wp_consent_type));
    },
  });
  return {
    set(category, word) {
      document.cookie = `a=b; wp_consent_${category}=${word}`;
      document.dispatchEvent(new Event("wp_listen_for_consent_change"));
    },
  };
}

test("wp: opt-in waits for the choice, and hears each change", () => {
  const frame = page();
  const api = wordpress(frame, "optin");
  frame.run(served("adapters/wp-consent.js"));
  assert.deepEqual(frame.said, []);
  api.set("statistics", "allow");
  assert.deepEqual(frame.said, []);
  api.set("marketing", "allow");
  api.set("marketing", "deny");
  assert.deepEqual(frame.said, told(true, false));
});

test("wp: opt-out is a yes until somebody denies", () => {
  const frame = page();
  const api = wordpress(frame, "optout");
  frame.run(served("adapters/wp-consent.js"));
  api.set("marketing", "deny");
  assert.deepEqual(frame.said, told(true, false));
});

test("wp: without a consent plugin nothing is said; a type that comes later counts", () => {
  const frame = page();
  wordpress(frame, "");
  frame.run(served("adapters/wp-consent.js"));
  assert.deepEqual(frame.said, []);
  frame.window.wp_consent_type = "optout";
  frame.document.dispatchEvent(new Event("wp_consent_type_defined"));
  assert.deepEqual(frame.said, told(true));
});

test("wp: the site's own type counts, but not while a plugin is to name one", () => {
  for (const [waits, expected] of [[false, told(true)], [true, []]] as const) {
    const frame = page();
    wordpress(frame, "");
    Object.assign(frame.window, { wp_fallback_consent_type: "optout", waitfor_consent_hook: waits });
    frame.run(served("adapters/wp-consent.js"));
    assert.deepEqual(frame.said, expected);
  }
});

// --- Shopify ------------------------------------------------------------------------------------

for (const [marketing, sale, consent, expected] of [
  [true, true, ["yes", "yes"], told(true)],
  [true, true, ["", ""], told(true)], // a region where nobody has to ask
  [false, true, ["", ""], []], // asked, not answered
  [false, true, ["no", ""], told(false)],
  [true, false, ["yes", "no"], told(false)],
] as const) {
  test(`shopify: marketing ${marketing}, sale of data ${sale}, visitor said ${JSON.stringify(consent)}`, () => {
    const frame = page();
    frame.run(served("adapters/shopify.js"));
    pass(300);
    const privacy = {
      marketingAllowed: () => marketing,
      saleOfDataAllowed: () => sale,
      currentVisitorConsent: () => ({ marketing: consent[0], sale_of_data: consent[1] }),
    };
    frame.window.Shopify = {
      loadFeatures(features: { name: string }[], loaded: () => void) {
        assert.equal(features[0]?.name, "consent-tracking-api");
        this.customerPrivacy = privacy;
        loaded();
      },
    };
    mock.timers.tick(100);
    assert.deepEqual(frame.said, expected);
    privacy.marketingAllowed = privacy.saleOfDataAllowed = () => true;
    frame.document.dispatchEvent(new Event("visitorConsentCollected"));
    assert.deepEqual(frame.said.at(-1), told(true)[0]);
  });
}

test("shopify: a feature that does not load says nothing", () => {
  const frame = page({ Shopify: { loadFeatures: (_: unknown, loaded: (fault: Error) => void) => loaded(new Error("x")) } });
  frame.run(served("adapters/shopify.js"));
  assert.deepEqual(frame.said, []);
});

// --- all of them --------------------------------------------------------------------------------

test("a tag that comes later hears the latest word, once", () => {
  const frame = new Frame({ dataLayer: [["consent", "default", BOTH("granted")]] });
  frame.run(served("adapters/consent-mode.js"));
  gtag(frame, "consent", "update", BOTH("denied"));
  pass(5000);
  const said: unknown[][] = [];
  frame.window.pintrk = (...call: unknown[]) => said.push(call);
  pass(5000);
  assert.deepEqual(said, told(false));
});

for (const name of ["consent-mode", "tcf", "wp-consent", "shopify"]) {
  test(`${name}: on a page that has nothing of it, nothing happens and nothing runs on`, () => {
    const frame = page();
    frame.run(served(`adapters/${name}.js`));
    pass(70_000);
    frame.window.__tcfapi = frame.window.wp_has_consent = () => assert.fail("too late");
    frame.window.Shopify = { loadFeatures: () => assert.fail("too late") };
    pass(70_000);
    assert.deepEqual(frame.said, []);
  });
}
