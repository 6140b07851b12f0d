// The shop's own script: what a developer writes around the tag. Forms that name an event send it when submitted;
// the consent banner remembers the answer in a cookie and tells the tag.
"use strict";

const YEAR_HALF_S = 182 * 86400;
const banner = document.getElementById("consent");
const privacySignal = navigator.globalPrivacyControl === true || navigator.doNotTrack === "1";

for (const form of document.querySelectorAll("form[data-event]")) {
  form.addEventListener("submit", () => {
    const fields = new FormData(form);
    if (fields.get("email")) pintrk("set", { em: fields.get("email") });
    pintrk("track", form.dataset.event, details(form, fields));
  });
}

/** What the form's event says; with a quantity, that many of its one product. */
function details(form, fields) {
  const data = JSON.parse(form.dataset.details || "{}");
  const [item] = data.line_items || [];
  if (!item) return data;
  item.product_quantity = Number(fields.get("quantity")) || 1;
  data.order_quantity = item.product_quantity;
  data.value = Math.round(item.product_price * item.product_quantity * 100) / 100;
  return data;
}

function answer(yes) {
  document.cookie = `consent=${yes ? "yes" : "no"}; Max-Age=${YEAR_HALF_S}; Path=/; SameSite=Lax`;
  banner.hidden = true;
  pintrk("setconsent", yes);
}

function ask() {
  document.getElementById("consent-ask").hidden = privacySignal;
  document.getElementById("consent-gpc").hidden = !privacySignal;
  document.getElementById("accept").hidden = privacySignal;
  document.getElementById("refuse").textContent = privacySignal ? "Good" : "Refuse";
  banner.hidden = false;
}

document.getElementById("accept").addEventListener("click", () => answer(true));
document.getElementById("refuse").addEventListener("click", () => answer(false));
document.getElementById("choices").addEventListener("click", ask);
if (!/(?:^|; )consent=/.test(document.cookie) && !privacySignal) ask();
