/**
 * Shopify's Customer Privacy API, for a theme (a custom pixel has its own): yes where marketing and the sale of data
 * are both allowed; no once the visitor said no to either; nothing where Shopify still has to ask.
 */

import { once, page, say } from "../say.ts";

type Answer = "yes" | "no" | "";

interface Privacy {
  marketingAllowed(): boolean;
  saleOfDataAllowed(): boolean;
  currentVisitorConsent(): { marketing: Answer; sale_of_data: Answer };
}

interface Shopify {
  customerPrivacy?: Privacy;
  loadFeatures(features: { name: string; version: string }[], loaded: (fault?: unknown) => void): void;
}

const shopify = (): Shopify | undefined => page.Shopify as Shopify | undefined;

function look(): void {
  const privacy = shopify()?.customerPrivacy;
  if (!privacy) return;
  const { marketing, sale_of_data } = privacy.currentVisitorConsent();
  if (privacy.marketingAllowed() && privacy.saleOfDataAllowed()) say(true);
  else say(marketing === "no" || sale_of_data === "no" ? false : undefined);
}

document.addEventListener("visitorConsentCollected", look);
once(
  () => shopify()?.loadFeatures,
  () => shopify()?.loadFeatures([{ name: "consent-tracking-api", version: "0.1" }], look),
);
