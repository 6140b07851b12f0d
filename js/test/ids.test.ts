import assert from "node:assert/strict";
import { test } from "node:test";

import { uuid } from "../src/ids.ts";

const NOW = 1795291390500;

test("UUIDs are well formed and differ", () => {
  const made = Array.from({ length: 1000 }, () => uuid(NOW));
  for (const id of made) assert.match(id, /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-8[\da-f]{3}-[\da-f]{12}$/);
  assert.equal(new Set(made).size, made.length);
});

test("a UUID holds its time and sorts by it", () => {
  const times = [NOW, NOW + 1, NOW + 16, NOW + 255, NOW + 1e6, Date.UTC(2400, 0)];
  const made = times.map(uuid);
  assert.deepEqual([...made].sort(), made);
  assert.deepEqual(made.map((id) => parseInt(id.replace("-", "").slice(0, 12), 16)), times);
});
