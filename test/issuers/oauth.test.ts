import { oauthIssuer } from "../../src/issuers/oauth.ts";
import type { Secret } from "../../src/lib/secret.ts";
import { itIsAnIssuer } from "./conformance.ts";
import { oauthHarness } from "./oauth-harness.ts";
import { API, OTHER_API } from "./oauth-server.ts";

const far = oauthHarness();

itIsAnIssuer({
  issuer: oauthIssuer,
  config: far.config,
  access: () => [
    { scope: ["read"], resource: API },
    { scope: ["write"], resource: API },
  ],
  forbidden: () => [
    { scope: ["read"], resource: API },
    { scope: ["read"], resource: OTHER_API },
  ],
  works: async (secret) => {
    const [read, write] = [await far.use(secret), await far.use(secret, "POST")];
    if (read === 200 && write === 200) return true;
    if (read === 401 && write === 401) return false;
    throw new Error(`the API answered ${read} and ${write}`);
  },
  endsAt: async ({ access_token: token }) => far.endOf((token as Secret).reveal()),
  unreachable: () => ({ ...far.config(), issuer: "http://127.0.0.1:1" }),
  refused: () => ({ ...far.config(), client_secret: "not the client's secret" }),
  namesAreShared: true,
});
