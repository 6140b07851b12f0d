/** Pure: what the tag decided, `[what, ...details]` as `pintrk.said` has it -> a sentence for a person. */

type Said = readonly unknown[];

interface Sources {
  gpc: boolean;
  page?: number;
  adapter?: number;
  site?: string;
}

interface Outcome {
  event_id: string;
  status: "durable" | "dropped" | "refused";
  reason: string;
  field: string;
  hint: string;
}

const WORDS = new Map([
  [-1, "no"],
  [0, "unknown"],
  [1, "yes"],
]);

/** Undefined where another sentence says the same. */
export function sentence([what, ...details]: Said): string | undefined {
  switch (what) {
    case "consent":
      return consent(details[0] as number, details[1] as Sources);
    case "queued":
      return `queued ${named(details[0])}`;
    case "dropped":
      return `dropped ${named(details[0])}: ${details[1]}`;
    case "unloaded":
      return 'no site yet: pintrk("load", ...) was not called, and no data-site is on the script; events wait in memory';
    case "refused":
      return `${details[0]} is left out: it is empty, or not what its name says (a phone number needs +COUNTRY)`;
    case "sent": {
      const { site, visitor_id, events } = JSON.parse(String(details[0])) as Record<string, string> & { events: object[] };
      return `sent for site ${site}, visitor ${visitor_id}: ${events.map(shown).join(", ")}`;
    }
    case "answered":
      return answered(details[0] as number, String(details[1]));
  }
  return typeof what === "number" ? undefined : `log: ${[what, ...details].join(" ")}`;
}

function consent(word: number, { gpc, page, adapter, site }: Sources): string {
  const by =
    page === word && !(gpc && word < 0)
      ? "setconsent was called"
      : gpc
        ? "the browser asks not to be tracked (Global Privacy Control or Do Not Track)"
        : page !== undefined
          ? "setconsent was called"
          : adapter !== undefined
            ? "an adapter said so"
            : site
              ? "the site's default"
              : "nobody has said anything";
  return `consent is ${WORDS.get(word)}: ${by}${word ? "" : "; events wait in memory"}`;
}

const shown = (event: object): string => {
  const { event: name, event_id } = event as Record<string, string>;
  return `${name} (${event_id})`;
};

const named = (json: unknown): string => shown(JSON.parse(String(json)) as object);

function answered(status: number, text: string): string {
  if (!status)
    return (
      "no answer, and it is sent again: the network or the collector is away, or this page's origin is not on the " +
      "site's list (pinstream sites list)"
    );
  if (status === 204) return "the collector answered 204: all of it is stored";
  const again = status === 429 || status >= 500 || text.includes('"log_') ? ", and it is sent again later" : "";
  return `the collector answered ${status}${again}: ${reasons(text).join("; ")}`;
}

function reasons(text: string): string[] {
  try {
    const { reason, field, hint, results = [] } = JSON.parse(text) as Outcome & { results?: Outcome[] };
    const told = results.map((one) => [one.event_id, one.status, one.reason, one.field, one.hint]);
    return (told.length ? told : [[reason, field, hint]]).map((parts) => parts.filter(Boolean).join(" "));
  } catch {
    return [text];
  }
}
