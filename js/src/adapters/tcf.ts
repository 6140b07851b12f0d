/**
 * IAB TCF 2.2: yes with consent for purposes 1 (storage), 3 and 4 (a profile for ads, and its use), and 7 (measuring
 * ads; legitimate interest will do there, as the framework allows). Else no; nothing while the banner is open.
 *
 * Where the platform says that the GDPR does not apply, that is a yes: the framework has no question to ask there.
 */

import { once, page, say } from "../say.ts";

type Choices = Record<number, boolean | undefined>;

interface TCData {
  eventStatus: "tcloaded" | "cmpuishown" | "useractioncomplete";
  gdprApplies?: boolean;
  purpose: { consents: Choices; legitimateInterests: Choices };
}

type Api = (command: "addEventListener", version: 2, heard: (data: TCData, success: boolean) => void) => void;

const api = (): Api | undefined => page.__tcfapi as Api | undefined;

once(api, () =>
  api()?.("addEventListener", 2, ({ eventStatus, gdprApplies, purpose }, success) => {
    if (!success) return;
    if (gdprApplies === false) say(true);
    else if (eventStatus !== "cmpuishown") {
      const { consents, legitimateInterests } = purpose;
      say([1, 3, 4].every((id) => consents[id]) && !!(consents[7] || legitimateInterests[7]));
    }
  }),
);
