/** What goes over the wire: one envelope around the events of a request, as docs/http-api.md describes it. */

export type Consent = "unknown" | "yes" | "no";

/** Identifiers of a person, each a list: SHA-256 in hex, or plain where the browser cannot hash. */
export type User = Partial<Record<Identifier, string[]>>;

/** Everything of a request but its events. */
export interface Head {
  site: string;
  /** The browser's clock at sending, ms since 1970: the server takes the skew from it. */
  sent_at: number;
  consent: Consent;
  visitor_id: string;
  /** Pinterest's click id. */
  epik?: string;
  user?: User;
}

export const IDENTIFIERS = [
  "em",
  "ph",
  "external_id",
  "fn",
  "ln",
  "ge",
  "db",
  "ct",
  "st",
  "zp",
  "country",
] as const;

export type Identifier = (typeof IDENTIFIERS)[number];

/** One product of an order or a product page. Pages send numbers as texts too; the server reads both. */
export interface LineItem {
  product_id?: string | number;
  product_name?: string;
  product_category?: string;
  product_brand?: string;
  product_variant?: string;
  product_variant_id?: string | number;
  product_price?: number | string;
  product_quantity?: number | string;
}

/** What a page may say about an event. Any other key is kept with it. */
export interface EventData {
  event_id?: string;
  value?: number | string;
  currency?: string;
  order_id?: string | number;
  order_quantity?: number | string;
  search_query?: string;
  line_items?: LineItem[];
  [key: string]: unknown;
}

/**
 * The request's body. Events are JSON texts already: what a page changes after the call changes nothing. NULs and halves
 * of surrogate pairs are left out, as the server takes no body that holds one.
 */
export const body = (head: Head, events: string[]): string =>
  `${JSON.stringify(head).slice(0, -1)},"events":[${events}]}`.replace(/(\\\\)|\\u(d[89a-f]..|0000)/g, "$1");
