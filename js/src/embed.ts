/** What the helpers for frameworks share: the call, and the script that takes it. */

interface Pintrk {
  (...call: unknown[]): unknown;
  queue?: unknown[][];
  version?: string;
}

/** What the script's element says for the site. */
export interface Embed {
  /** Address of tag.js on your collector. */
  src: string;
  site: string;
  consent?: "yes" | "no" | "unknown";
  /** Send a page visit now and at each change of the address. */
  pagevisit?: boolean;
  explicit_yes_overrides_gpc?: boolean;
}

/** `window.pintrk`; before the tag is there, a queue that it will empty. */
export function pintrk(...call: unknown[]): unknown {
  const home = window as unknown as { pintrk?: Pintrk };
  if (!home.pintrk) {
    const stub: Pintrk = (...call) => void stub.queue?.push(call);
    home.pintrk = Object.assign(stub, { queue: [], version: "3.0" });
  }
  return home.pintrk(...call);
}

/** Loads the tag, once however often it is asked. */
export function embed({ src, ...options }: Embed): void {
  if (document.querySelector(`script[src="${src}"]`)) return;
  const script = document.createElement("script");
  script.src = src;
  for (const [name, value] of Object.entries(options)) if (value) script.dataset[name] = String(value);
  document.head.append(script);
}
