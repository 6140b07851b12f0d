/**
 * mirror.js: Pinterest's own tag stays, and our client gets a copy of each call, with the same event id.
 *
 * Pinterest's library starts only while `queue.push` is the native one, and replaces it then. So the function is
 * wrapped, the queue is left alone until the library has it, and every way to it passes here: whoever reads
 * `pintrk.queue`, the library too, finds ids in all calls that wait.
 */

import { createClient } from "./client.ts";
import type { Place } from "./place.ts";
import { once } from "./say.ts";

type Call = ArrayLike<unknown>;

interface Official {
  (...call: unknown[]): unknown;
  queue?: unknown[];
  live?: boolean;
}

const home = window as unknown as Omit<Place, "pintrk"> & { pintrk?: Official };
const script = document.currentScript as HTMLScriptElement | null;
const options = { ...script?.dataset };
const endpoint = new URL("p/i", script?.src || location.href).href;
const native = Array.prototype.push;

function mirror(official: Official): Official {
  const ours = createClient(home as Place, endpoint, options) as Official;
  const seen = new WeakSet<object>(); // calls in the queue that were told already
  const wrapped = new WeakSet<Function>();
  let forwarding = false;
  if (options.site) ours("load", options.site);

  /** Tells our client of a call. Gives the call as Pinterest's tag shall have it; undefined: it is none of its business. */
  function copy(call: Call): unknown[] | undefined {
    try {
      return told(Array.from(call));
    } catch (fault) {
      console.error("pintrk:", fault); // ours alone: Pinterest's tag gets the call as it was
      return Array.from(call);
    }
  }

  function told(call: unknown[]): unknown[] | undefined {
    const [command, first, second, ...rest] = call;
    switch (String(command).trim().toLowerCase()) {
      case "load":
        if (options.site) ours("set", second ?? {});
        else ours("load", first, second);
        break;
      case "track": {
        const data = { ...(second as object | undefined) };
        const id = ours("track", first, data);
        return [command, first, { ...data, ...(id ? { event_id: id } : {}) }, ...rest];
      }
      case "setconsent":
        ours("setconsent", first, second);
        if (second === "adapter") return undefined;
        break;
      case "set":
      case "page":
        ours(command, first);
    }
    return call;
  }

  /** A call on its way into the queue: true if it shall go there. It is changed where it is, as others may hold it. */
  function admit(item: unknown): boolean {
    if (Object(item) !== item || seen.has(item as object)) return true;
    seen.add(item as object);
    if (forwarding) return true;
    const call = copy(item as Call);
    if (call) Object.assign(item as object, call, { length: call.length });
    return !!call;
  }

  function look(): void {
    const { queue } = official;
    if (!queue) return;
    for (let n = 0; n < queue.length; n++) if (!admit(queue[n])) queue.splice(n--, 1);
    const { push } = queue;
    if (push === native || wrapped.has(push)) return;
    queue.push = (...items) => push.apply(queue, items.filter(admit)); // the library runs: its queue carries calls out
    wrapped.add(queue.push);
  }

  look();
  once(() => official.queue && official.queue.push !== native, look);
  official.live = true;
  return new Proxy(official, {
    get(target, key) {
      if (key === "queue" && !forwarding) look();
      return Reflect.get(target, key);
    },
    apply(target, self, call: unknown[]) {
      look();
      const passed = copy(call);
      if (!passed) return undefined;
      forwarding = true;
      try {
        return Reflect.apply(target, self, passed);
      } finally {
        target.queue?.forEach(admit);
        forwarding = false;
      }
    },
  });
}

once(
  () => home.pintrk,
  () => {
    if (home.pintrk && !home.pintrk.live) home.pintrk = mirror(home.pintrk);
  },
);
