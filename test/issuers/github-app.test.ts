import { githubApp } from "../../src/issuers/github-app.ts";
import type { Secret } from "../../src/lib/secret.ts";
import { itIsAnIssuer } from "./conformance.ts";
import { access, githubHarness, read, stranger } from "./github-harness.ts";

const far = githubHarness();

itIsAnIssuer({
  issuer: githubApp,
  config: far.config,
  access: () => [read],
  forbidden: () => [access(["hello-world"], { actions: "write" })],
  works: async (secret) => {
    const status = await far.use(secret, "GET /repos/{owner}/Hello-World/contents/README.md");
    if (status === 200) return true;
    if (status === 401) return false;
    throw new Error(`GitHub answered ${status}`);
  },
  endsAt: async ({ token }) =>
    new Date(far.github().tokens.find(({ value }) => value === (token as Secret).reveal())?.endsMs ?? Number.NaN),
  unreachable: () => ({ ...far.config(), api_url: "http://127.0.0.1:1" }),
  refused: () => ({ ...far.config(), private_key: stranger }),
  namesAreShared: true,
});
