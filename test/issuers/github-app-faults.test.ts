import { describe } from "@jest/globals";
import { githubApp } from "../../src/issuers/github-app.ts";
import { itSurvivesFaults } from "./faults.ts";
import { githubHarness, read } from "./github-harness.ts";

describe("GitHub", () => {
  const far = githubHarness();

  itSurvivesFaults({
    issuer: githubApp,
    farSide: () => new URL(far.github().apiUrl).origin,
    config: (origin) => ({ ...far.config(), api_url: far.config().api_url.replace(/^https?:\/\/[^/]+/, origin) }),
    access: () => [read],
    works: async (secret) => {
      const past = { ...secret, api_url: far.github().apiUrl };
      const status = await far.use(past, "GET /repos/{owner}/Hello-World/contents/README.md");
      if (status !== 200 && status !== 401) throw new Error(`GitHub answered ${status}`);
      return status === 200;
    },
  });
});
