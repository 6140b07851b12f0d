/**
 * Google Consent Mode v2: yes once `ad_storage` and `ad_user_data` are both granted, no once an update denies one.
 *
 * A default of "denied" is the time before the banner's answer, not the answer: events go on waiting. Defaults for
 * some regions are not for us to judge, as a page does not know where its visitor is; where one denies, a default that
 * grants is not believed. What a consent platform tells Google past the data layer is not seen here.
 */

import { page, say } from "../say.ts";

const SIGNALS = ["ad_storage", "ad_user_data"];

type Said = Record<string, string | undefined>;

const defaults: Said = {};
const updates: Said = {};
const name = document.currentScript?.dataset.layer ?? "dataLayer";
const layer = (page[name] ??= []) as unknown[];
const push = layer.push;

function hear(item: unknown): void {
  const [command, what, said] = Array.from((item ?? []) as ArrayLike<unknown>) as [unknown, unknown, Said?];
  if (command !== "consent" || !said) return;
  for (const signal of SIGNALS) {
    if (what === "update") updates[signal] = said[signal] ?? updates[signal];
    else if (defaults[signal] !== "denied") defaults[signal] = said[signal] ?? defaults[signal];
  }
  const state = SIGNALS.map((signal) => updates[signal] ?? defaults[signal]);
  if (state.every((value) => value === "granted")) say(true);
  else say(SIGNALS.some((signal) => updates[signal] === "denied") ? false : undefined);
}

layer.forEach(hear);
layer.push = (...items) => {
  const pushed = push.apply(layer, items);
  items.forEach(hear);
  return pushed;
};
