/** sandbox.js as it is served, in a place that has neither a page nor a storage, a navigator or a fetch. */

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import vm from "node:vm";

import { served } from "./frame.ts";
import { eachInStillTime, pass } from "./shop.ts";

eachInStillTime();

const NOW = 1795291390500;

interface Sent {
  site: string;
  visitor_id: string;
  epik?: string;
  events: { event: string; url: string; time: number }[];
}

function sandbox(around: Record<string, unknown> = {}) {
  const sent: Sent[] = [];
  const context = vm.createContext({ crypto, TextEncoder, setTimeout, console });
  vm.runInContext(served("sandbox.js"), context);
  const pintrk = context.pinstream.createClient({
    endpoint: "https://t.shop.example/p/i",
    fetch: async (_: string, { body }: { body: string }) => {
      sent.push(JSON.parse(body) as Sent);
      return { status: 204, text: async () => "", headers: { get: () => null } };
    },
    now: () => NOW,
    ...around,
  });
  return { pintrk, sent };
}

test("it works with a fetch and a clock alone", async () => {
  const { pintrk, sent } = sandbox({ consent: "yes" });
  pintrk("load", "shop", { em: "a@example.com" });
  const id = pintrk("track", "checkout", { value: 3 });
  await pass(0);
  assert.equal(sent.length, 1);
  assert.equal(sent[0]?.events[0]?.time, NOW);
  assert.match(id, /^[\da-f-]{36}$/);
});

test("address, cookies and what is kept come from outside, and go there", async () => {
  const kept: Record<string, string> = {};
  const set: string[] = [];
  let url = "https://shop.example/?epik=dj0y";
  const { pintrk, sent } = sandbox({
    url: () => url,
    cookie: () => "ps_vid=0b5c0000-0000-4000-8000-00000000000c",
    setCookie: (cookie: string) => set.push(cookie),
    keep: (key: string, value: string) => {
      if (value) kept[key] = value;
      else delete kept[key];
    },
  });
  pintrk("load", "shop");
  pintrk("setconsent", true);
  url = "https://shop.example/checkout";
  pintrk("track", "checkout");
  await pass(0);
  const [body] = sent;
  assert.deepEqual([body?.visitor_id, body?.epik], ["0b5c0000-0000-4000-8000-00000000000c", "dj0y"]);
  assert.equal(body?.events[0]?.url, url);
  assert.deepEqual(kept, { ps_vid: body?.visitor_id, ps_vid_epik: "dj0y" });
  pintrk("setconsent", false);
  await pass(0);
  assert.deepEqual(kept, {});
  assert.deepEqual(set, ["ps_vid=; Max-Age=0; Path=/"]);
  assert.equal(sent.length, 2);
});

test("what was kept is known again", async () => {
  const visitor = "0b5c0000-0000-4000-8000-000000000001";
  const { pintrk, sent } = sandbox({ consent: "yes", kept: { ps_vid: visitor } });
  pintrk("load", "shop");
  pintrk("track", "lead");
  await pass(0);
  assert.equal(sent[0]?.visitor_id, visitor);
});

test("flush sends at once what waits for company", async () => {
  const { pintrk, sent } = sandbox({ consent: "yes" });
  pintrk("load", "shop");
  await pass(0);
  pintrk("track", "pagevisit");
  pintrk.flush();
  assert.deepEqual(sent.map(({ events }) => events.length), [1]);
});

test("the visitor's privacy signal is a no", async () => {
  mock.method(console, "error", () => undefined);
  const { pintrk, sent } = sandbox({ consent: "yes", optedOut: () => true });
  pintrk("load", "shop");
  pintrk("track", "lead");
  await pass(60_000);
  assert.deepEqual(sent, []);
});
