import assert from "node:assert/strict";
import { test } from "node:test";

import { sentence } from "../src/sentence.ts";

const EVENT = JSON.stringify({ event: "checkout", event_id: "7", value: 1 });

for (const [said, expected] of [
  [["consent", 1, { gpc: false, page: 1 }], "consent is yes: setconsent was called"],
  [["consent", 1, { gpc: true, page: 1 }], "consent is yes: setconsent was called"], // explicit_yes_overrides_gpc
  [["consent", -1, { gpc: true, page: 1 }], /^consent is no: the browser asks not to be tracked/],
  [["consent", -1, { gpc: true, page: -1 }], /^consent is no: the browser asks not to be tracked/],
  [["consent", -1, { gpc: false, adapter: -1, site: "yes" }], "consent is no: an adapter said so"],
  [["consent", 1, { gpc: false, site: "yes" }], "consent is yes: the site's default"],
  [["consent", 0, { gpc: false }], "consent is unknown: nobody has said anything; events wait in memory"],
  [["queued", EVENT, undefined], "queued checkout (7)"],
  [["dropped", EVENT, "no consent"], "dropped checkout (7): no consent"],
  [
    ["sent", `{"site":"shop","visitor_id":"v","events":[${EVENT},{"event":"init","event_id":"8"}]}`],
    "sent for site shop, visitor v: checkout (7), init (8)",
  ],
  [["answered", 204, ""], "the collector answered 204: all of it is stored"],
  [
    ["answered", 403, '{"reason":"unknown_site","field":"$.site","hint":"Add it."}'],
    "the collector answered 403: unknown_site $.site Add it.",
  ],
  [
    [
      "answered",
      207,
      '{"results":[{"event_id":"7","status":"durable","reason":"","field":"","hint":""},' +
        '{"event_id":"8","status":"refused","reason":"bad_value","field":"$.value","hint":"A number."}]}',
    ],
    "the collector answered 207: 7 durable; 8 refused bad_value $.value A number.",
  ],
  [["unloaded"], /^no site yet: pintrk\("load", ...\) was not called/],
  [["refused", "ph"], /^ph is left out/],
  [["answered", 0, ""], /^no answer, and it is sent again: .* origin is not on the site's list/],
  [["answered", 503, "away"], "the collector answered 503, and it is sent again later: away"],
  [["load again"], "log: load again"],
  [[403, "the same as answered"], undefined],
] as const) {
  test(`${JSON.stringify(said).slice(0, 60)}`, () => {
    const found = sentence(said);
    if (expected instanceof RegExp) assert.match(found ?? "", expected);
    else assert.equal(found, expected);
  });
}
