/** The first part of debug.js: the tag, in a build that tells `pintrk.said` what it decides. */

import { takeOver } from "./takeover.ts";

const here = new URL(".", import.meta.url).href;
const script = [...document.scripts].find(({ src }) => src.replace(/[^/]*$/, "") === here);

takeOver(here, { ...script?.dataset });
