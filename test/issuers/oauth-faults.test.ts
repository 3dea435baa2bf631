import { describe } from "@jest/globals";
import { oauthIssuer } from "../../src/issuers/oauth.ts";
import { itSurvivesFaults } from "./faults.ts";
import { oauthHarness, read } from "./oauth-harness.ts";

describe("An authorization server", () => {
  const far = oauthHarness();

  itSurvivesFaults({
    issuer: oauthIssuer,
    farSide: () => far.server().issuer,
    config: (issuer) => ({ ...far.config(), issuer }),
    access: () => [read],
    works: async (secret) => {
      const status = await far.use(secret);
      if (status !== 200 && status !== 401) throw new Error(`the API answered ${status}`);
      return status === 200;
    },
  });
});
