/** What adapters share: how they tell the tag, and how they wait for what is loaded after them. */

const PATIENCE = 600; // looks, before it is given up
const PAUSE_MS = 100;

type Pintrk = (command: "setconsent", value: boolean | undefined, from: "adapter") => void;

/** The page's globals that adapters look at. */
export const page = window as unknown as Window & Record<string, unknown> & { pintrk?: Pintrk };

/** Calls `then` once `there` is truthy: at once, or for a minute whenever the next look finds it so. */
export function once(there: () => unknown, then: () => void, looks = PATIENCE): void {
  if (there()) then();
  else if (looks) setTimeout(once, PAUSE_MS, there, then, looks - 1);
}

let last: boolean | undefined;
let waiting = false;

/** Tells the tag yes, no or (undefined) that nothing is known any more; the latest word, and nothing twice. */
export function say(word: boolean | undefined): void {
  if (word === last) return;
  last = word;
  if (waiting) return;
  waiting = true;
  once(
    () => page.pintrk,
    () => {
      waiting = false;
      page.pintrk?.("setconsent", last, "adapter");
    },
  );
}
