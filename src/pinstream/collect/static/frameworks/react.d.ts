/*! pinstream, Apache-2.0 */
/** What the helpers for frameworks share: the call, and the script that takes it. */
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
export declare function pintrk(...call: unknown[]): unknown;
/** Loads the tag, once however often it is asked. */
export declare function embed({ src, ...options }: Embed): void;

/**
 * For React 16.8 and later. `<Tag src="https://t.shop.example/tag.js" site="TAG_ID" pagevisit />` once, anywhere;
 * `useTrack` or `pintrk` in what knows of an event. Nothing happens while a server renders.
 */
/** Loads the tag. Shows nothing. */
export declare function Tag(options: Embed): null;
/**
 * Sends an event when the component is there, and again only when what it says has changed: a second rendering sends
 * nothing, nor does the second run of effects in development. Without a name nothing is sent.
 */
export declare function useTrack(name: string | undefined, data?: object): void;
