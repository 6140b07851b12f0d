/** debug.js: the tag, in a build that tells what it decides and why; this part writes it on the browser's console. */

import "./debug-tag.ts";
import { sentence } from "./sentence.ts";

const said = window.pintrk?.said;

function tell(...all: unknown[][]): number {
  for (const one of all) {
    const text = sentence(one);
    if (text) console.info(`%cpintrk%c ${text}`, "font-weight:bold", "");
  }
  return 0;
}

if (said) {
  tell(...said.splice(0));
  said.push = tell;
}
