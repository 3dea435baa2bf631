import { generateKeyPairSync } from "node:crypto";
import { describe, expect, test } from "@jest/globals";
import { type GithubConfig, githubApp } from "../../src/issuers/github-app.ts";
import { failure, never } from "./conformance.ts";
import { type Access, githubHarness, read, stranger } from "./github-harness.ts";

const far = githubHarness();

describe("registration", () => {
  const looked = async (wanted: Access, changes: Partial<GithubConfig> = {}): Promise<unknown> => {
    await using client = await githubApp.connect({ ...far.config(), ...changes });
    return await failure(githubApp.inspect?.(client, [wanted], never()) as Promise<void>);
  };

  test.each<[string, () => Promise<unknown>, RegExp]>([
    ["another key", () => looked(read, { private_key: stranger }), /private_key/],
    ["another app", () => looked(read, { client_id: "Iv23someoneelse" }), /client_id/],
    ["no such installation", () => looked(read, { installation_id: 9 }), /no installation 9: install it/],
    [
      "a permission that is missing",
      () => looked({ ...read, permissions: { actions: "read" } }),
      /does not grant actions: read/,
    ],
    [
      "a level that is missing",
      () => looked({ ...read, permissions: { checks: "write" } }),
      /checks: write.*Permissions & events/,
    ],
    [
      "a repository that is not reached",
      () => looked({ ...read, repositories: ["secret"] }),
      /repository secret: add it under/,
    ],
  ])("%s is refused with what to change", async (_what, look, detail) => {
    expect(await look()).toMatchObject({ code: "target_refused", detail: expect.stringMatching(detail) });
  });

  test("a repository that another installation of the app reaches is refused", async () => {
    far.github().instead = ({ path }) => (path.startsWith("/repos/") ? { status: 200, body: { id: 9 } } : undefined);
    expect(await looked(read)).toMatchObject({
      code: "target_refused",
      detail: expect.stringContaining("does not reach"),
    });
  });

  test("a suspended installation is refused", async () => {
    far.github().installation.suspended = true;
    expect(await looked(read)).toMatchObject({ code: "target_refused", detail: expect.stringContaining("suspended") });
  });

  test("a clock that is off is refused, before every mint fails", async () => {
    far.github().skewMs = 20_000;
    expect(await looked(read)).toMatchObject({ code: "target_refused", detail: expect.stringContaining("clock") });
  });

  test.each<[string, unknown]>([
    ["a repository with a path", { repositories: ["../app"], permissions: { contents: "read" } }],
    ["a repository of dots", { repositories: [".."], permissions: { contents: "read" } }],
    ["a repository with its owner", { repositories: ["octo-org/docs"], permissions: { contents: "read" } }],
    ["a repository with a query", { repositories: ["docs?x=1"], permissions: { contents: "read" } }],
    ["a repository with a line break", { repositories: ["docs\n"], permissions: { contents: "read" } }],
    ["no repository, which GitHub takes for all", { repositories: [], permissions: { contents: "read" } }],
    ["no permission, which GitHub takes for all", { repositories: ["docs"], permissions: {} }],
    ["a permission of the organization", { repositories: ["docs"], permissions: { members: "read" } }],
    ["a permission that is none", { repositories: ["docs"], permissions: { Contents: "read" } }],
    ["a level that is none", { repositories: ["docs"], permissions: { contents: "admin" } }],
    ["to make collaborators and deploy keys", { repositories: ["docs"], permissions: { administration: "write" } }],
    ["to make webhooks", { repositories: ["docs"], permissions: { repository_hooks: "write" } }],
  ])("access to %s is not accepted", (_what, wanted) => {
    expect(githubApp.access.safeParse(wanted).success).toBe(false);
  });

  test.each<[string, Record<string, unknown>]>([
    ["http to another host", { api_url: "http://api.github.com" }],
    ["credentials in the URL", { api_url: "https://a:b@api.github.com" }],
    ["a query in the URL", { api_url: "https://api.github.com/?a=b" }],
    ["a path that climbs", { api_url: "https://ghe.test/api/../v3" }],
    ["no URL", { api_url: "api.github.com" }],
    ["another scheme", { api_url: "file:///etc/passwd" }],
    ["an installation that is a path", { installation_id: "1/../2" }],
    ["a client id with quotes", { client_id: 'a"b' }],
    ["a key that is none", { private_key: "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----" }],
    [
      "a key that is not RSA",
      { private_key: generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }).toString() },
    ],
    [
      "a key that is too short",
      {
        private_key: generateKeyPairSync("rsa", { modulusLength: 1024 })
          .privateKey.export({ type: "pkcs1", format: "pem" })
          .toString(),
      },
    ],
  ])("%s is no configuration", (_what, changes) => {
    const parsed = githubApp.config.safeParse({ ...far.config(), ...changes });
    expect(parsed.success).toBe(false);
    if (typeof changes.private_key === "string")
      expect(JSON.stringify(parsed.error)).not.toContain(changes.private_key.split("\n")[1]);
  });

  test("GitHub itself and GitHub Enterprise Server are", () => {
    for (const api_url of ["https://api.github.com", "https://ghe.example.test:8443/api/v3"])
      expect(githubApp.config.safeParse({ ...far.config(), api_url }).success).toBe(true);
  });
});
