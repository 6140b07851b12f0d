import { AnalyticsBrowser } from "@segment/analytics-next";

const { host } = new URL(document.currentScript.src);
const settings = { integrations: { "Segment.io": { apiKey: "bench", apiHost: `${host}/segment`, protocol: "http" } } };
const analytics = AnalyticsBrowser.load({ writeKey: "bench", cdnSettings: settings });
analytics.page();
window.tell = (id) => analytics.track("add to cart", { id });
