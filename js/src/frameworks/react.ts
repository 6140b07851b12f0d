/**
 * For React 16.8 and later. `<Tag src="https://t.shop.example/tag.js" site="TAG_ID" pagevisit />` once, anywhere;
 * `useTrack` or `pintrk` in what knows of an event. Nothing happens while a server renders.
 */

import { useEffect, useRef } from "react";
import { embed, pintrk, type Embed } from "../embed.ts";

export { pintrk };

/** Loads the tag. Shows nothing. */
export function Tag(options: Embed): null {
  useEffect(() => embed(options), []);
  return null;
}

/**
 * Sends an event when the component is there, and again only when what it says has changed: a second rendering sends
 * nothing, nor does the second run of effects in development. Without a name nothing is sent.
 */
export function useTrack(name: string | undefined, data?: object): void {
  const said = useRef("");
  const says = name && JSON.stringify([name, data]);
  useEffect(() => {
    if (!says || said.current === says) return;
    said.current = says;
    pintrk("track", name, data);
  }, [says]);
}
