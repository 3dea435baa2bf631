import { generateKeyPairSync } from "node:crypto";
import { afterAll, beforeAll, beforeEach } from "@jest/globals";
import { request as octokit } from "@octokit/request";
import { type GithubConfig, type GithubHandle, githubApp } from "../../src/issuers/github-app.ts";
import type { Issued, IssueRequest } from "../../src/issuers/issuer.ts";
import { newId } from "../../src/lib/ids.ts";
import type { Secret } from "../../src/lib/secret.ts";
import { never } from "./conformance.ts";
import { type Asked, type GithubFake, githubFake, type Reply } from "./github-fake.ts";

export type Access = ReturnType<typeof githubApp.access.parse>;

export interface Minted {
  readonly secret: Issued["secret"];
  readonly expiresAt: Date | undefined;
  /** As it was last kept. */
  readonly handle: GithubHandle;
}

/** A GitHub for the tests of one file, as it was set up before each of them. */
export interface GithubHarness {
  github(): GithubFake;
  config(): GithubConfig;
  /** Mints as the runtime does. */
  mint(
    access: readonly Access[],
    changes?: Partial<IssueRequest<Access, GithubHandle>> & { readonly config?: GithubConfig },
  ): Promise<Minted>;
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
    async mint(wanted, changes = {}) {
      const { config: given = config(), ...others } = changes;
      await using client = await githubApp.connect(given);
      const id = newId("credential");
      let handle: GithubHandle = {};
      const { secret, expiresAt } = await githubApp.issue(client, {
        credentialId: id,
        ...githubApp.name(id, given),
        access: wanted,
        expiresAt: new Date(Date.now() + 60_000),
        createWithinMs: 5_000,
        signal: never(),
        keep: async (fuller) => {
          handle = fuller;
        },
        ...others,
      });
      return { secret, expiresAt, handle };
    },
    async end(handle) {
      await using client = await githubApp.connect(config());
      await githubApp.revoke(client, handle, never());
      return (await githubApp.probe(client, handle, never())).outcome;
    },
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
