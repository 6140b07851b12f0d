/** Where the tag runs: a page's window, or what a sandbox puts in its place. */

export interface Place {
  fetch(url: string, options: RequestInit): Promise<Answer>;
  /** "null" where the document has none. */
  readonly origin?: string;
  readonly location: { readonly href: string };
  readonly document: { cookie: string; readonly referrer: string; readonly hidden?: boolean };
  readonly navigator: {
    readonly globalPrivacyControl?: boolean;
    readonly doNotTrack?: string | null;
    readonly locks?: { request(name: string, run: () => Promise<void>): Promise<unknown> };
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

/** What `look` gives; undefined where it throws, which `failed` is told. */
export function attempt<T>(look: () => T, failed?: (fault: unknown) => void): T | undefined {
  try {
    return look();
  } catch (fault) {
    failed?.(fault);
    return undefined;
  }
}

/** The value of `name` in an address or in cookies, as it is written there; no more of it than the server takes. */
export const find = (text: string | undefined, name: string): string | undefined =>
  RegExp(`[?&; ]${name}=([^&#; ]{1,512})`).exec(` ${text}`)?.[1];

/** Calls `visit` now, whenever the address has changed otherwise than behind the `#`, and when a page comes back. */
export function eachVisit(place: Place, visit: () => void): void {
  let last: string | undefined;
  const look = (event?: { persisted?: boolean }): void => {
    const url = place.location.href.split("#")[0];
    if (url !== last || event?.persisted) visit();
    last = url;
  };
  look();
  const { navigation, history } = place;
  place.addEventListener("pageshow", look);
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
