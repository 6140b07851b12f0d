/**
 * For Vue 3.3 and later. `app.use(tag, { src: "https://t.shop.example/tag.js", site: "TAG_ID", pagevisit: true })`
 * once; `useTrack` or `pintrk` in what knows of an event. Nothing happens while a server renders.
 */

import { onMounted, toValue, watch, type App, type MaybeRefOrGetter } from "vue";
import { embed, pintrk, type Embed } from "../embed.ts";

export { pintrk };

/** The plugin that loads the tag. */
export const tag = {
  install(_: App, options: Embed): void {
    if (typeof window === "object") embed(options);
  },
};

/**
 * Sends an event once the component is mounted, and again whenever what it says has changed. Without a name nothing is
 * sent.
 */
export function useTrack(name: MaybeRefOrGetter<string | undefined>, data?: MaybeRefOrGetter<object | undefined>): void {
  onMounted(() =>
    watch(
      () => JSON.stringify([toValue(name), toValue(data)]),
      () => toValue(name) && pintrk("track", toValue(name), toValue(data)),
      { immediate: true },
    ),
  );
}
