/** tag.js: the tag as a page's script. With `?pt_debug` in the page's address debug.js does all this in its place. */

import { find } from "./place.ts";
import { takeOver } from "./takeover.ts";

const script = document.currentScript as HTMLScriptElement | null;
const address = script?.src || location.href;

if (find(location.href, "pt_debug")) void import(new URL("debug.js", address).href);
else takeOver(address, { ...script?.dataset });
