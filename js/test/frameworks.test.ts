import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { createElement, StrictMode, type ReactElement } from "react";
import { act, create, type ReactTestRenderer } from "react-test-renderer";
import { createRenderer, defineComponent, h, nextTick, ref } from "vue";

import { Tag, pintrk, useTrack } from "../src/frameworks/react.ts";
import { tag, useTrack as useTrackInVue } from "../src/frameworks/vue.ts";

interface Script {
  src: string;
  dataset: Record<string, string>;
}

const SRC = "https://t.shop.example/tag.js";
const here = globalThis as unknown as { window?: { pintrk?: { queue: unknown[][] } }; document?: unknown };
let scripts: Script[] = [];
const calls = (): unknown[][] => here.window?.pintrk?.queue ?? [];

beforeEach(() => {
  scripts = [];
  here.window = {};
  here.document = {
    querySelector: (selector: string) => scripts.find(({ src }) => selector === `script[src="${src}"]`) ?? null,
    createElement: (): Script => ({ src: "", dataset: {} }),
    head: { append: (script: Script) => void scripts.push(script) },
  };
  (globalThis as Record<string, unknown>).IS_REACT_ACT_ENVIRONMENT = true;
});

// --- React --------------------------------------------------------------------------------------

const Product = ({ id }: { id: string }): null => {
  useTrack("pagevisit", { line_items: [{ product_id: id }] });
  return null;
};

const inStrictMode = (...children: ReactElement[]): ReactElement => createElement(StrictMode, null, ...children);

function rendered(element: ReactElement): ReactTestRenderer {
  let made: ReactTestRenderer | undefined;
  act(() => void (made = create(element)));
  return made!;
}

test("react: effects that run twice in development load and send once", () => {
  let runs = 0;
  const Counts = (): null => {
    useTrack("lead");
    runs++;
    return null;
  };
  const element = () => inStrictMode(createElement(Counts), createElement(Tag, { src: SRC, site: "shop", pagevisit: true }));
  const tree = rendered(element());
  assert.ok(runs > 1, "React did not run it twice");
  act(() => tree.update(element()));
  assert.deepEqual(calls(), [["track", "lead", undefined]]);
  assert.deepEqual(scripts, [{ src: SRC, dataset: { site: "shop", pagevisit: "true" } }]);
});

test("react: another event is sent, the same one is not", () => {
  const tree = rendered(inStrictMode(createElement(Product, { id: "a" })));
  for (const id of ["a", "b", "b"]) act(() => tree.update(inStrictMode(createElement(Product, { id }))));
  assert.deepEqual(calls().map(([, , data]) => (data as { line_items: { product_id: string }[] }).line_items[0]?.product_id), ["a", "b"]);
});

test("react: without a name nothing is sent", () => {
  const Silent = (): null => (useTrack(undefined), null);
  rendered(createElement(Silent));
  assert.deepEqual(calls(), []);
});

test("a tag that is there already is called, and its answer given", () => {
  here.window = { pintrk: ((...call: unknown[]) => call.length) as never };
  assert.equal(pintrk("track", "lead"), 2);
});

test("only what is true is written on the script's element", () => {
  rendered(createElement(Tag, { src: SRC, site: "shop", pagevisit: false, consent: "yes" }));
  assert.deepEqual(scripts[0]?.dataset, { site: "shop", consent: "yes" });
});

// --- Vue ----------------------------------------------------------------------------------------

const nothing = (): void => undefined;
const { createApp } = createRenderer<object, object>({
  createElement: () => ({}),
  createText: () => ({}),
  createComment: () => ({}),
  insert: nothing,
  remove: nothing,
  patchProp: nothing,
  setText: nothing,
  setElementText: nothing,
  parentNode: () => null,
  nextSibling: () => null,
});

test("vue: sends once it is mounted, and again when what it says has changed", async () => {
  const id = ref("a");
  const Page = defineComponent(() => {
    useTrackInVue("pagevisit", () => ({ id: id.value }));
    return () => h("p", id.value);
  });
  createApp(Page).use(tag, { src: SRC, site: "shop" }).mount({});
  for (const next of ["a", "b", "b"]) {
    id.value = next;
    await nextTick();
  }
  assert.deepEqual(calls(), [["track", "pagevisit", { id: "a" }], ["track", "pagevisit", { id: "b" }]]);
  assert.deepEqual(scripts, [{ src: SRC, dataset: { site: "shop" } }]);
});

test("vue: a server that renders sends and loads nothing", () => {
  delete here.window;
  delete here.document;
  createApp({ render: () => null }).use(tag, { src: SRC, site: "shop" });
});
