/** Where the tag runs: a page's window, or what a sandbox puts in its place. */

export interface Place {
  fetch(url: string, options: RequestInit): Promise<Answer>;
  readonly location: { readonly href: string };
  readonly document: { cookie: string; readonly referrer: string };
  readonly navigator: {
    readonly globalPrivacyControl?: boolean;
    readonly doNotTrack?: string | null;
    readonly locks?: { request(name: string, run: () => Promise<void>): Promise<unknown> };
    sendBeacon?(url: string, body: string): boolean;
  };
  /** What outlives the page, by key. May throw when it is looked at. */
  readonly localStorage?: Record<string, string>;
  /** The Navigation API, where a browser has it. */
  readonly navigation?: Pick<Place, "addEventListener">;
  readonly history?: Pick<History, "pushState" | "replaceState">;
  addEventListener(type: string, listener: (event: any) => void): void;
}

/** What the tag reads of the collector's answer. */
export type Answer = Pick<Response, "status" | "text"> & { readonly headers: Pick<Headers, "get"> };

/** What `look` gives; undefined where it is closed to us. */
export function attempt<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch {
    return undefined;
  }
}

/** The value of `name` in an address or in cookies, as it is written there; no more of it than the server takes. */
export const find = (text: string | undefined, name: string): string | undefined =>
  RegExp(`[?&; ]${name}=([^&#; ]{1,512})`).exec(` ${text}`)?.[1];

/** Calls `visit` now, and whenever the address has changed otherwise than behind the `#`. */
export function eachVisit(place: Place, visit: () => void): void {
  let last: string | undefined;
  const look = (): void => {
    const url = place.location.href.split("#")[0];
    if (url !== last) visit();
    last = url;
  };
  look();
  const { navigation, history } = place;
  if (navigation) navigation.addEventListener("currententrychange", look);
  else if (history) {
    place.addEventListener("popstate", look);
    for (const name of ["pushState", "replaceState"] as const) {
      const go = history[name];
      history[name] = (...entry) => {
        go.apply(history, entry);
        look();
      };
    }
  }
}
