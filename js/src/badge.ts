/**
 * badge.js: says on a product's element how many people saved it on Pinterest, where they are many.
 *
 * `<span data-pinstream-product="sku-1"></span>` gets its text, and so do such elements that come later. `data-text` on
 * the element, or for all of them on the script, changes it; `{n}` stands for the number. Stores nothing.
 */

interface Told {
  products?: Record<string, { at_least?: number }>;
}

const MOST = 50; // products in a request, so that its address stays short enough for any proxy

const { src, dataset } = document.currentScript as HTMLScriptElement;
const asked = new WeakSet<Element>();

async function ask(elements: HTMLElement[]): Promise<void> {
  const url = new URL("v1/popular", src);
  url.searchParams.set("site", dataset.site!);
  for (const { dataset } of elements) url.searchParams.append("product", dataset.pinstreamProduct!);
  const { products }: Told = await (await fetch(url, { credentials: "omit" })).json();
  for (const element of elements) {
    const savers = products?.[element.dataset.pinstreamProduct!]?.at_least;
    const text = element.dataset.text ?? dataset.text ?? "Saved by {n} people on Pinterest";
    if (savers) element.textContent = text.replace("{n}", savers.toLocaleString() + "+");
  }
}

function look(): void {
  const found = [...document.querySelectorAll<HTMLElement>("[data-pinstream-product]")].filter(
    (element) => !asked.has(element) && asked.add(element),
  );
  while (found[0]) ask(found.splice(0, MOST)).catch(() => {});
}

look();
new MutationObserver(look).observe(document, { childList: true, subtree: true });
