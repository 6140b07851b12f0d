/**
 * WP Consent API (WordPress, WooCommerce): what it says about "marketing", now and at each change.
 *
 * Only "deny" is a no: in an opt-in region the API also answers false before the visitor has chosen. Where no consent
 * plugin has set a consent type, the API answers yes to everybody; that is no consent, and nothing is said.
 */

import { once, page, say } from "../say.ts";

const has = (): ((category: string) => boolean) | undefined => page.wp_has_consent as ReturnType<typeof has>;

function look(): void {
  if (!(page.wp_consent_type || (page.wp_fallback_consent_type && !page.waitfor_consent_hook))) return;
  const prefix = (page.consent_api as { cookie_prefix?: string } | undefined)?.cookie_prefix ?? "wp_consent";
  if (has()?.("marketing")) say(true);
  else say(document.cookie.includes(`${prefix}_marketing=deny`) ? false : undefined);
}

once(has, look);
document.addEventListener("wp_consent_type_defined", look);
document.addEventListener("wp_listen_for_consent_change", look);
