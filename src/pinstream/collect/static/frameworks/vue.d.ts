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
 * For Vue 3.3 and later. `app.use(tag, { src: "https://t.shop.example/tag.js", site: "TAG_ID", pagevisit: true })`
 * once; `useTrack` or `pintrk` in what knows of an event. Nothing happens while a server renders.
 */
import { type App, type MaybeRefOrGetter } from "vue";
/** The plugin that loads the tag. */
export declare const tag: {
    install(_: App, options: Embed): void;
};
/**
 * Sends an event once the component is mounted, and again whenever what it says has changed. Without a name nothing is
 * sent.
 */
export declare function useTrack(name: MaybeRefOrGetter<string | undefined>, data?: MaybeRefOrGetter<object | undefined>): void;
