import { generateKeyPairSync } from "node:crypto";
import { afterAll, beforeAll, beforeEach } from "@jest/globals";
import { request as octokit } from "@octokit/request";
import { type GithubConfig, type GithubHandle, githubApp } from "../../src/issuers/github-app.ts";
import type { Issued } from "../../src/issuers/issuer.ts";
import type { Secret } from "../../src/lib/secret.ts";
import { asRuntime, type MintChanges, type Minted } from "./as-runtime.ts";
import { type Asked, type GithubFake, githubFake, type Reply } from "./github-fake.ts";

export type Access = ReturnType<typeof githubApp.access.parse>;

/** A GitHub for the tests of one file, as it was set up before each of them. */
export interface GithubHarness {
  github(): GithubFake;
  config(): GithubConfig;
  /** Mints as the runtime does. */
  mint(
    access: readonly Access[],
    changes?: MintChanges<GithubConfig, Access, GithubHandle>,
  ): Promise<Minted<GithubHandle>>;
  /** Revokes and looks. */
  end(handle: GithubHandle): Promise<string>;
  /** GitHub's own client library, with the token alone. The status of its answer. */
  use(secret: Issued["secret"], what: string): Promise<number>;
  /** A signal that ends a mint when its token is looked at for the second time. `answer` is what a look gets. */
  atSecondLook(answer?: (asked: Asked) => Reply): AbortSignal;
  /** The questions for tokens. */
  posts(): Asked[];
  /** Whether somebody took a token back. */
  takenBack(): boolean;
}

/** A key that is of no app. */
export const stranger = generateKeyPairSync("rsa", { modulusLength: 2048 })
  .privateKey.export({ type: "pkcs1", format: "pem" })
  .toString();

export const access = (repositories: Access["repositories"], permissions: Access["permissions"]): Access => ({
  repositories,
  permissions,
});
export const read = access(["Hello-World"], { contents: "read" });

/** A target's config for this GitHub. */
export function configOf(github: GithubFake): GithubConfig {
  return {
    api_url: github.apiUrl,
    client_id: github.clientId,
    installation_id: github.installationId,
    private_key: github.privateKey,
  };
}

export function githubHarness(): GithubHarness {
  let github: GithubFake;
  beforeAll(async () => {
    github = await githubFake();
  });
  afterAll(async () => {
    await github[Symbol.asyncDispose]();
  });
  beforeEach(() => {
    const quiet = { instead: undefined, change: undefined };
    Object.assign(github, { skewMs: 0, lag: 0, longTokens: false, limitedUntilMs: 0, ...quiet });
    github.installation.suspended = false;
    github.asked.length = 0;
  });
  const config = (): GithubConfig => configOf(github);
  return {
    github: () => github,
    config,
    ...asRuntime(githubApp, config),
    use({ token, api_url }, what) {
      const headers = { authorization: `Bearer ${(token as Secret).reveal()}` };
      const given = { baseUrl: String(api_url), owner: github.owner, headers, content: "eA==", message: "m" };
      return octokit(what, given).then(
        ({ status }) => status,
        (error: { status: number }) => error.status,
      );
    },
    atSecondLook(answer) {
      const stop = new AbortController();
      let looks = 0;
      github.instead = (asked) => {
        if (asked.method !== "GET") return undefined;
        looks += 1;
        if (looks === 2) stop.abort();
        return answer?.(asked);
      };
      return stop.signal;
    },
    posts: () => github.asked.filter(({ method }) => method === "POST"),
    takenBack: () => github.asked.some(({ method }) => method === "DELETE"),
  };
}
