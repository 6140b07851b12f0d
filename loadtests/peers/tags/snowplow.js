import { newTracker, trackPageView, trackSelfDescribingEvent } from "@snowplow/browser-tracker";

newTracker("sp", new URL(document.currentScript.src).origin, { appId: "shop" });
trackPageView();
window.tell = (id) =>
  trackSelfDescribingEvent({ event: { schema: "iglu:com.example/add_to_cart/jsonschema/1-0-0", data: { id } } });
