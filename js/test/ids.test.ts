import assert from "node:assert/strict";
import { test } from "node:test";

import { uuid } from "../src/ids.ts";

test("UUIDs of both kinds are well formed and differ", () => {
  const made = Array.from({ length: 1000 }, (_, n) => (n % 2 ? uuid() : uuid(1795291390500 + n)));
  for (const [n, id] of made.entries()) {
    assert.match(id, /^[\da-f]{8}-[\da-f]{4}-[47][\da-f]{3}-8[\da-f]{3}-[\da-f]{12}$/);
    assert.equal(id[14], n % 2 ? "4" : "7");
  }
  assert.equal(new Set(made).size, made.length);
});

test("UUIDv7 sorts by time", () => {
  const made = [1, 2, 255, 256, 1795291390500, 1795291390501].map((now) => uuid(now));
  assert.deepEqual([...made].sort(), made);
});
