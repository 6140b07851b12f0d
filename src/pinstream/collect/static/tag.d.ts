/*! pinstream, Apache-2.0 */
/** Made by scripts/wiretypes from the server's event model: edit that, not this. Servers read numbers as text too. */
/** One product of an order or a product page. */
export interface LineItem {
    product_id?: number | string;
    product_name?: string;
    product_category?: string;
    product_brand?: string;
    product_variant?: string;
    product_variant_id?: number | string;
    product_price?: number | string;
    product_quantity?: number | string;
}
/** What may be said about an event. */
export interface EventFields {
    event_id?: number | string;
    value?: number | string;
    currency?: string;
    order_id?: number | string;
    order_quantity?: number | string;
    search_query?: string;
    line_items?: LineItem[];
    props?: Record<string, unknown>;
}
/** Identifiers of a person. */
export type UserKey = "em" | "ph" | "external_id" | "fn" | "ln" | "ge" | "db" | "ct" | "st" | "zp" | "country" | "hashed_maids";
/** The events that Pinterest knows, under the names of its Conversions API. */
export type StandardEvent = "page_visit" | "view_category" | "search" | "add_to_cart" | "checkout" | "watch_video" | "signup" | "lead" | "custom" | "add_payment_info" | "add_to_wishlist" | "initiate_checkout" | "subscribe" | "view_content" | "app_install" | "app_open" | "contact" | "customize_product" | "find_location" | "schedule" | "start_trial" | "submit_application" | "init" | "order_cancelled" | "order_refunded";

/** The types of `pintrk`. */
/** A name as the server compares it: `AddToCart`, `add-to-cart` and `add_to_cart` are one event. */
type Folded<Name extends string> = Name extends `${infer Start}${"_" | "-" | " "}${infer Rest}` ? Folded<`${Start}${Rest}`> : Lowercase<Name>;
/** Who it is, as texts or SHA-256 in hex; of a list the first one. The tag hashes what is plain. */
export type Identity = {
    [Key in Exclude<UserKey, "hashed_maids">]?: string | number | string[] | undefined;
};
/** What a page may say about a standard event. Product fields outside of `line_items` are one product. */
export interface EventData extends EventFields, LineItem {
    /** Other spellings of `event_id`. */
    eventID?: string;
    eventId?: string;
    eid?: string;
    em?: Identity["em"];
    ph?: Identity["ph"];
    external_id?: Identity["external_id"];
    promo_code?: string;
    coupon?: string;
    property?: string;
    video_title?: string;
    lead_type?: string;
    page_name?: string;
}
/** What belongs to an event of this name: the documented fields for a standard event, anything for one of your own. */
export type DataOf<Name extends string> = Folded<Name> extends Folded<StandardEvent> ? EventData : EventData & Record<string, unknown>;
/** Told at once: was the event taken? If not, why: `no consent` or `too much`. */
export type Callback = (taken: boolean, reason: string | undefined) => void;
/** What the site says, in `load` or in the script's attributes. */
export interface Options {
    /** What holds until somebody has asked: yes, no, or (unsaid, unknown) wait. */
    consent?: string;
    /** Send a page visit now, and whenever the address changes. */
    pagevisit?: boolean | string;
    /** A yes that the visitor said here counts more than Global Privacy Control. The site's setting must say so too. */
    explicit_yes_overrides_gpc?: boolean | string;
}
/** The commands are understood in any case; a command that is none is logged. No call throws. */
export interface Pintrk {
    (command: "load", tagId: string | number, data?: Identity & Options): void;
    (command: "set", data: Identity): void;
    /** Sends the event `init`, which is no page visit. Gives its id. */
    (command: "page"): string;
    /** `true`, `1`, `"true"`, `"yes"` are a yes; `undefined` and `"unknown"` mean wait; all else is a no. */
    (command: "setconsent" | "setConsent", value: unknown, by?: "adapter"): void;
    /** Gives the event's id, whether or not the event may be sent. The last overload: it is the one that a compiler explains. */
    <Name extends string>(command: "track", name: Name, data?: DataOf<Name> | null, callback?: Callback): string;
    /** Calls that wait for the tag; what is pushed later is carried out at once. */
    queue?: unknown[];
    version?: string;
    /** The site, since `load`. */
    tagId?: string;
    /** The tag runs. */
    live?: boolean;
    /** With debug.js: what the tag decided, each as `[what, ...details]`. */
    said?: unknown[][];
}
declare global {
    /** On pages with the stub, or with a script that runs before yours. */
    var pintrk: Pintrk;
}

/** tag.mjs: the tag as a module. */
/**
 * Starts the tag and gives `window.pintrk`; where it runs already, that one. Nothing happens before, so that a module
 * that imports this one can be loaded on a server.
 *
 * @param collector your collector's address, by default that of this module: `https://collect.shop.example/`
 */
export declare const connect: (collector?: string, options?: Options & {
    site?: string;
}) => Pintrk;
