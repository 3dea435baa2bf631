import { inspect } from "node:util";
import { describe, expect, test } from "@jest/globals";
import { type GithubHandle, githubApp } from "../../src/issuers/github-app.ts";
import type { Secret } from "../../src/lib/secret.ts";
import { failure, never } from "./conformance.ts";
import { githubFake, problem } from "./github-fake.ts";
import { type Access, access, githubHarness, read } from "./github-harness.ts";

const far = githubHarness();

describe("what a token may do", () => {
  test("is what was asked: these repositories, these permissions, and nothing beside", async () => {
    const { secret, handle } = await far.mint([
      read,
      { repositories: ["hello-world"], permissions: { contents: "write" } },
    ]);
    expect(far.posts()[0]?.body).toEqual({
      repositories: ["Hello-World"],
      permissions: { contents: "write", metadata: "read" },
    });
    expect(await far.use(secret, "PUT /repos/{owner}/Hello-World/contents/a.txt")).toBe(201);
    expect(await far.use(secret, "GET /repos/{owner}/docs/contents/a.txt")).toBe(404);
    expect(await far.use(secret, "GET /repos/{owner}/Hello-World/issues")).toBe(403);
    expect(await far.end(handle)).toBe("dead");
  });

  test("more at one access than at another of the same repository is the more, in whichever order", async () => {
    for (const both of [
      [read, access(["hello-world"], { contents: "write" })],
      [access(["hello-world"], { contents: "write" }), read],
    ])
      expect(await far.use((await far.mint(both)).secret, "PUT /repos/{owner}/Hello-World/contents/a.txt")).toBe(201);
  });

  test("reading is not writing", async () => {
    const { secret } = await far.mint([read]);
    expect(await far.use(secret, "PUT /repos/{owner}/Hello-World/contents/a.txt")).toBe(403);
  });

  test("repositories may be named by id", async () => {
    const { secret } = await far.mint([{ repositories: [2, 3], permissions: { contents: "read" } }]);
    expect(far.posts()[0]?.body).toMatchObject({ repository_ids: [2, 3] });
    expect(await far.use(secret, "GET /repos/{owner}/tools/contents/a.txt")).toBe(200);
    expect(await far.use(secret, "GET /repos/{owner}/Hello-World/contents/a.txt")).toBe(404);
  });

  test.each<[string, Access[]]>([
    ["one repository to read and another to write", [read, access(["docs"], { contents: "write" })]],
    ["one repository's contents and another's issues", [read, access(["docs"], { issues: "read" })]],
    [
      "one repository with less than the rest",
      [access(["tools"], { issues: "read" }), access(["hello-world", "docs"], { contents: "read", issues: "read" })],
    ],
  ])("%s is no one token: refused before GitHub is asked, and at registration", async (_what, wanted) => {
    expect(await failure(far.mint(wanted))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("one credential"),
    });
    await using client = await githubApp.connect(far.config());
    expect(await failure(githubApp.inspect?.(client, wanted, never()) as Promise<void>)).toMatchObject({
      code: "target_refused",
      detail: expect.stringContaining("one target"),
    });
    expect(far.github().asked).toEqual([]);
  });

  test("names and ids are not mixed, and 500 repositories are the most", async () => {
    const byId: Access = { repositories: [2], permissions: { contents: "read" } };
    expect(await failure(far.mint([read, byId]))).toMatchObject({ code: "target_rejected" });
    const some = (from: number): Access => ({
      repositories: Array.from({ length: 300 }, (_, i) => `r-${from + i}`),
      permissions: { contents: "read" },
    });
    expect(await failure(far.mint([some(0), some(300)]))).toMatchObject({ code: "target_rejected" });
    expect(far.github().asked).toEqual([]);
  });

  test("500 repositories are one token, although GitHub describes every one of them", async () => {
    const names = Array.from({ length: 500 }, (_, i) => `a-repository-with-a-name-of-its-own-${i}`);
    const before = new Map(far.github().installation.repositories);
    for (const [index, name] of names.entries()) far.github().installation.repositories.set(name, 100 + index);
    const { handle } = await far.mint([{ repositories: names, permissions: { contents: "read" } }]);
    expect(far.github().tokens.at(-1)?.repositories.size).toBe(500);
    expect(await far.end(handle)).toBe("dead");
    far.github().installation.repositories.clear();
    for (const [name, id] of before) far.github().installation.repositories.set(name, id);
  });

  test.each<[string, Record<string, unknown>]>([
    ["a permission more", { permissions: { metadata: "read", contents: "read", issues: "read" } }],
    ["a higher level", { permissions: { metadata: "read", contents: "write" } }],
    ["a level of which we know nothing", { permissions: { metadata: "read", contents: "maintain" } }],
    [
      "a repository more",
      {
        repositories: [
          { id: 1, name: "Hello-World" },
          { id: 2, name: "docs" },
        ],
      },
    ],
    ["all repositories", { repository_selection: "all" }],
    ["no word of its repositories", { repositories: undefined }],
    ["no word of its permissions", { permissions: undefined }],
    ["an end in a day", { expires_at: new Date(Date.now() + 86_400_000).toISOString() }],
    ["no end", { expires_at: undefined }],
    ["an end that is past", { expires_at: new Date(0).toISOString() }],
  ])("a token that GitHub says has %s is taken back and not handed out", async (_what, more) => {
    far.github().change = ({ method }, reply) =>
      method === "POST" ? { ...reply, body: { ...(reply.body as object), ...more } } : reply;
    let kept: GithubHandle = {};
    const minted = far.mint([read], {
      keep: async (fuller) => {
        kept = fuller;
      },
    });
    expect(await failure(minted)).toMatchObject({ code: "target_rejected" });
    expect(kept.token).toBe(far.github().tokens.at(-1)?.value);
    expect(far.takenBack()).toBe(true);
    expect(await far.end(kept)).toBe("dead");
  });
});

describe("a token", () => {
  test.each([false, true])("is taken as it comes, whatever its form (long: %s)", async (long) => {
    far.github().longTokens = long;
    const { secret, handle } = await far.mint([read]);
    expect((secret.token as Secret).reveal().length > 400).toBe(long);
    expect(await far.use(secret, "GET /repos/{owner}/Hello-World")).toBe(200);
    expect(await far.end(handle)).toBe("dead");
    expect(await far.use(secret, "GET /repos/{owner}/Hello-World")).toBe(401);
  });

  test("that GitHub does not know everywhere yet is waited for: else its first 401 would pass for a death", async () => {
    far.github().lag = 3;
    const { secret, handle } = await far.mint([read]);
    expect(await far.use(secret, "GET /repos/{owner}/Hello-World")).toBe(200);
    expect(await far.end(handle)).toBe("dead");
    expect(await far.use(secret, "GET /repos/{owner}/Hello-World")).toBe(401);
  });

  test("that is not known in time is not handed out", async () => {
    far.github().lag = 1_000;
    expect(await failure(far.mint([read], { signal: far.atSecondLook() }))).toMatchObject({
      code: "target_unavailable",
    });
    expect(far.takenBack()).toBe(true);
  });

  test("is kept before anything else is done with it, and taken back by its issue when it cannot be kept", async () => {
    const error = new Error("no database");
    const minted = far.mint([read], {
      keep: async () => {
        expect(far.github().asked.map(({ method }) => method)).toEqual(["POST"]);
        throw error;
      },
    });
    expect(await failure(minted)).toBe(error);
    expect(far.takenBack()).toBe(true);
    expect(await far.end({ token: far.github().tokens.at(-1)?.value ?? "" })).toBe("dead");
  });

  test("is taken back by its issue also when the caller has gone meanwhile", async () => {
    const stop = new AbortController();
    const minted = far.mint([read], {
      signal: stop.signal,
      keep: async () => {
        stop.abort();
        throw new Error("gone");
      },
    });
    await failure(minted);
    expect(far.takenBack()).toBe(true);
  });

  test("ends when GitHub says so: an hour, or earlier than was asked", async () => {
    expect((await far.mint([read])).expiresAt).toBeUndefined();
    const { expiresAt } = await far.mint([read], { expiresAt: new Date(Date.now() + 3_700_000) });
    expect(expiresAt?.getTime()).toBe(far.github().tokens.at(-1)?.endsMs);
  });

  test("whose hour is over is dead, and a revoke of it succeeds", async () => {
    const { secret, handle } = await far.mint([read]);
    far.github().skewMs = 3_601_000;
    expect(await far.use(secret, "GET /repos/{owner}/Hello-World")).toBe(401);
    await using client = await githubApp.connect(far.config());
    expect((await githubApp.probe(client, handle, never())).outcome).toBe("dead");
    expect(await githubApp.revoke(client, handle, never())).toEqual({});
  });

  test("is in no error, also where GitHub quotes it", async () => {
    const signal = far.atSecondLook(({ bearer }) => problem(500, `${bearer} is no good`));
    const error = await failure(far.mint([read], { signal }));
    const value = far.github().tokens.at(-1)?.value ?? "";
    expect(value).toBe(far.github().asked.find(({ method }) => method === "GET")?.bearer);
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(value);
  });
});

describe("the app", () => {
  test("speaks as GitHub wants it: RS256, backdated a minute, good for no longer than the mint may take", async () => {
    const before = Math.floor(Date.now() / 1000);
    await far.mint([read], { createWithinMs: 4_000 });
    const [header = "", payload = ""] = far.posts()[0]?.bearer.split(".") ?? [];
    const parsed = (text: string): unknown => JSON.parse(Buffer.from(text, "base64url").toString());
    expect(parsed(header)).toEqual({ alg: "RS256", typ: "JWT" });
    const { iss, iat, exp, ...more } = parsed(payload) as { iss: string; iat: number; exp: number };
    expect([iss, more]).toEqual([far.github().clientId, {}]);
    expect(iat).toBeLessThanOrEqual(Math.floor(Date.now() / 1000) - 60);
    expect(iat).toBeGreaterThanOrEqual(before - 60);
    expect(exp - iat).toBeLessThanOrEqual(66);
  });

  test("a mint that GitHub gets to see too late is refused by GitHub itself", async () => {
    far.github().instead = ({ method }) => {
      if (method === "POST") far.github().skewMs = 6_000;
      return undefined;
    };
    expect(await failure(far.mint([read]))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("clock"),
    });
    expect(far.github().tokens.filter(({ endsMs }) => endsMs > Date.now() + 3_605_000)).toEqual([]);
  });

  test("may be named by its app id, and its key may be PKCS#8", async () => {
    const other = { ...far.config(), client_id: String(far.github().appId), private_key: far.github().pkcs8 };
    await using client = await githubApp.connect(other);
    await githubApp.inspect?.(client, [read], never());
    expect((await far.mint([read], { config: other })).handle.token).toBeDefined();
  });

  test("may be one of GitHub Enterprise Server, under a path", async () => {
    await using server = await githubFake({ base: "/api/v3" });
    const there = { ...far.config(), api_url: server.apiUrl, private_key: server.privateKey };
    const { secret } = await far.mint([read], { config: there });
    expect(secret.api_url).toBe(server.apiUrl);
    expect(server.asked.every(({ path }) => path.startsWith("/api/v3/"))).toBe(true);
    expect(await far.use(secret, "GET /repos/{owner}/Hello-World")).toBe(200);
  });
});
