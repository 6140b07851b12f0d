/** The template for Google Tag Manager, run with the APIs that its documentation gives to sandboxed JavaScript. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import vm from "node:vm";

const SCRIPT = "https://t.shop.example/tag.js";
const TEXT = readFileSync(new URL("../../../src/pinstream/collect/snippets/gtm.tpl", import.meta.url), "utf8")
  .replace(/{{script}}/g, SCRIPT)
  .replace(/{{site}}/g, "my-shop");

const sections = Object.fromEntries(
  [...TEXT.matchAll(/^___([A-Z_]+)___\n([^]*?)(?=^___[A-Z_]+___\n|$(?![^]))/gm)].map(([, name, text]) => [name, text ?? ""]),
);
const section = <T>(name: string): T => JSON.parse(sections[name] ?? "") as T;

interface Value {
  string?: string;
  boolean?: boolean;
  listItem?: Value[];
  mapKey?: Value[];
  mapValue?: Value[];
}
type Permission = { instance: { key: { publicId: string }; param: { value: Value }[] } };

const permissions = section<Permission[]>("WEB_PERMISSIONS");
const granted = (id: string): Value[] =>
  permissions.find(({ instance }) => instance.key.publicId === id)?.instance.param[0]?.value.listItem ?? [];
const keys = (id: string): unknown[] => granted(id).map(({ mapValue }) => mapValue?.[0]?.string);

class Container {
  readonly window: { pintrk?: ((...call: unknown[]) => void) & { queue?: unknown[][] } } = {};
  readonly injected: unknown[][] = [];
  readonly consent: Record<string, boolean> = {};
  succeeded = 0;
  private readonly stored: Record<string, unknown> = {};
  private readonly listeners: [string, (signal: string, given: boolean) => void][] = [];

  /** Fires one tag made of the template. */
  fire(data: object): void {
    const apis: Record<string, unknown> = {
      addConsentListener: (signal: string, listener: (signal: string, given: boolean) => void) => {
        assert.ok(keys("access_consent").includes(signal));
        this.listeners.push([signal, listener]);
      },
      createArgumentsQueue: (path: string, queue: string) => {
        assert.deepEqual([path, queue], keys("access_globals"));
        if (!this.window.pintrk) {
          const calls: unknown[][] = [];
          this.window.pintrk = Object.assign((...call: unknown[]) => void calls.push(call), { queue: calls });
        }
        return this.window.pintrk;
      },
      injectScript: (url: string, done: () => void, _: () => void, token: string) => {
        assert.deepEqual(granted("inject_script").map(({ string }) => string), [url]);
        this.injected.push([url, token]);
        done();
      },
      isConsentGranted: (signal: string) => this.consent[signal] ?? true, // what nobody has set counts as granted
      makeTableMap: (rows: Record<string, string>[], key: string, value: string) =>
        rows.length ? Object.fromEntries(rows.map((row) => [row[key], row[value]])) : null,
      templateStorage: {
        getItem: (key: string) => this.stored[key],
        setItem: (key: string, value: unknown) => (this.stored[key] = value),
      },
    };
    const require = (name: string): unknown => apis[name] ?? assert.fail(`no such API: ${name}`);
    const gtm = { gtmOnSuccess: () => this.succeeded++, gtmOnFailure: () => assert.fail("it failed") };
    vm.runInNewContext(`(() => {${sections.SANDBOXED_JS_FOR_WEB_TEMPLATE}})()`, { require, data: { ...data, ...gtm } });
  }

  /** The visitor answers the banner. */
  answer(signal: string, given: boolean): void {
    this.consent[signal] = given;
    for (const [heard, listener] of this.listeners) if (heard === signal) listener(signal, given);
  }

  calls(): unknown[][] {
    return JSON.parse(JSON.stringify(this.window.pintrk?.queue ?? [])) as unknown[][];
  }
}

test("several tags on a page: one load, each its event, in order", () => {
  const container = new Container();
  container.fire({ site: "my-shop", event: "pagevisit" });
  const fields = [
    { name: "event_id", value: "7" },
    { name: "value", value: "42.50" },
  ];
  container.fire({ site: "my-shop", event: "checkout", fields });
  container.fire({ site: "my-shop", event: "other", otherEvent: "Newsletter", fields: [] });
  assert.deepEqual(container.calls(), [
    ["load", "my-shop"],
    ["track", "pagevisit", {}],
    ["track", "checkout", { event_id: "7", value: "42.50" }],
    ["track", "Newsletter", {}],
  ]);
  assert.equal(container.succeeded, 3);
  assert.deepEqual(new Set(container.injected.map(([, token]) => token)), new Set(["pinstream"])); // Tag Manager loads it once
});

test("consent is left to the page unless the box is ticked", () => {
  const container = new Container();
  container.fire({ site: "my-shop", event: "pagevisit" });
  assert.ok(container.calls().every(([command]) => command !== "setconsent"));
});

test("consent mode: denied by default is no answer, what comes later is", () => {
  const container = new Container();
  Object.assign(container.consent, { ad_storage: false, ad_user_data: false });
  container.fire({ site: "my-shop", event: "pagevisit", consentMode: true });
  assert.ok(container.calls().every(([command]) => command !== "setconsent"));
  container.answer("ad_storage", true);
  assert.ok(container.calls().every(([command]) => command !== "setconsent")); // a no would forget what waits
  container.answer("ad_user_data", true);
  assert.deepEqual(container.calls().at(-1), ["setconsent", true, "adapter"]);
  container.answer("ad_storage", false);
  assert.deepEqual(container.calls().at(-1), ["setconsent", false, "adapter"]);
});

test("consent mode: granted before the tag fires is a yes, said before load", () => {
  const container = new Container();
  Object.assign(container.consent, { ad_storage: true, ad_user_data: true });
  container.fire({ site: "my-shop", event: "pagevisit", consentMode: true });
  assert.deepEqual(container.calls().slice(0, 2), [
    ["setconsent", true, "adapter"],
    ["load", "my-shop"],
  ]);
});

test("the template is what the editor takes", () => {
  assert.deepEqual(Object.keys(sections), [
    "TERMS_OF_SERVICE",
    "INFO",
    "TEMPLATE_PARAMETERS",
    "SANDBOXED_JS_FOR_WEB_TEMPLATE",
    "WEB_PERMISSIONS",
    "TESTS",
    "NOTES",
  ]);
  assert.equal(section<{ type: string }>("INFO").type, "TAG");
  for (const { name } of section<{ name: string }[]>("TEMPLATE_PARAMETERS")) assert.match(name, /^[A-Za-z_]+$/);
  const used = [...(sections.SANDBOXED_JS_FOR_WEB_TEMPLATE ?? "").matchAll(/data\.(\w+)/g)].map(([, name]) => name);
  const fields = section<{ name: string }[]>("TEMPLATE_PARAMETERS").map(({ name }) => name);
  assert.deepEqual(new Set(used), new Set([...fields, "gtmOnSuccess", "gtmOnFailure"]));
});
