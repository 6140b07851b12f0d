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
export type UserKey =
  | "em"
  | "ph"
  | "external_id"
  | "fn"
  | "ln"
  | "ge"
  | "db"
  | "ct"
  | "st"
  | "zp"
  | "country"
  | "hashed_maids";

/** The events that Pinterest knows, under the names of its Conversions API. */
export type StandardEvent =
  | "page_visit"
  | "view_category"
  | "search"
  | "add_to_cart"
  | "checkout"
  | "watch_video"
  | "signup"
  | "lead"
  | "custom"
  | "add_payment_info"
  | "add_to_wishlist"
  | "initiate_checkout"
  | "subscribe"
  | "view_content"
  | "app_install"
  | "app_open"
  | "contact"
  | "customize_product"
  | "find_location"
  | "schedule"
  | "start_trial"
  | "submit_application"
  | "init"
  | "order_cancelled"
  | "order_refunded";
