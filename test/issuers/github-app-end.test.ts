import { describe, expect, test } from "@jest/globals";
import { githubApp } from "../../src/issuers/github-app.ts";
import { failure, never } from "./conformance.ts";
import { type Asked, type GithubFake, problem } from "./github-fake.ts";
import { githubHarness, read } from "./github-harness.ts";

const far = githubHarness();

describe("no false death", () => {
  test.each<[string, (asked: Asked) => ReturnType<NonNullable<GithubFake["instead"]>>]>([
    [
      "a 401 of a proxy",
      () => ({ status: 401, body: "<html>please log in</html>", headers: { "content-type": "text/html" } }),
    ],
    ["another 401 of GitHub", () => problem(401, "Requires authentication")],
    ["a bare 404", () => ({ status: 404 })],
    ["GitHub's 404", () => problem(404, "Not Found")],
    ["a 403 with the words of a death", () => problem(403, "Bad credentials")],
    ["a 200 of something else", () => ({ status: 200, body: "ok" })],
    ["an outage", () => problem(503, "Unavailable")],
    ["a redirect", () => ({ status: 302, headers: { location: "/login" } })],
  ])("%s is unknown, and the revoke fails", async (_what, answer) => {
    const { handle } = await far.mint([read]);
    await using client = await githubApp.connect(far.config());
    far.github().instead = answer;
    for (const one of [handle, {}]) {
      expect((await githubApp.probe(client, one, never())).outcome).toBe("unknown");
      expect(["target_rejected", "target_unavailable"]).toContain(
        ((await failure(githubApp.revoke(client, one, never()))) as { code: string }).code,
      );
    }
    far.github().instead = undefined;
    expect((await githubApp.probe(client, handle, never())).outcome).toBe("alive");
    expect(await far.end(handle)).toBe("dead");
  });

  test("a suspended installation is no death: it may be unsuspended, and the token lives on", async () => {
    const { handle, secret } = await far.mint([read]);
    await using client = await githubApp.connect(far.config());
    far.github().installation.suspended = true;
    expect((await githubApp.probe(client, handle, never())).outcome).toBe("unknown");
    expect(await failure(githubApp.revoke(client, handle, never()))).toMatchObject({ code: "target_rejected" });
    far.github().installation.suspended = false;
    expect(await far.use(secret, "GET /repos/{owner}/Hello-World")).toBe(200);
    expect(await far.end(handle)).toBe("dead");
  });

  test("a token of which nothing was kept is called so: it was never handed out", async () => {
    await using client = await githubApp.connect(far.config());
    expect(await githubApp.probe(client, {}, never())).toMatchObject({ outcome: "dead", by: "never_kept" });
  });
});

describe("limits", () => {
  test.each<[string, number, Record<string, string>, string, number]>([
    [
      "the primary one",
      403,
      { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "RESET" },
      "API rate limit exceeded",
      120,
    ],
    ["a secondary one with its seconds", 429, { "retry-after": "7" }, "You have exceeded a secondary rate limit", 7],
    ["a secondary one, 403", 403, { "retry-after": "9" }, "whatever", 9],
    ["a secondary one without a word", 403, {}, "You have exceeded a secondary rate limit", 60],
    ["429 alone", 429, {}, "", 60],
    ["a far reset", 403, { "x-ratelimit-remaining": "0", "x-ratelimit-reset": "99999999999" }, "", 3600],
  ])("%s: later, and when", async (_what, status, headers, message, seconds) => {
    far.github().skewMs = 2_000_000;
    far.github().instead = () => {
      const nowMs = Math.floor((Date.now() + far.github().skewMs) / 1000) * 1000;
      const date = { date: new Date(nowMs).toUTCString() };
      const filled = Object.entries(headers).map(([name, value]) => [
        name,
        value.replace("RESET", String(nowMs / 1000 + 120)),
      ]);
      return { ...problem(status, message), headers: { ...date, ...Object.fromEntries(filled) } };
    };
    const limited = { code: "target_unavailable", retryable: true, retryAfterSeconds: seconds };
    expect(await failure(far.mint([read]))).toMatchObject(limited);
    await using client = await githubApp.connect(far.config());
    expect(await failure(githubApp.revoke(client, { token: "ghs_x" }, never()))).toMatchObject(limited);
    expect((await githubApp.probe(client, { token: "ghs_x" }, never())).outcome).toBe("unknown");
    expect(await failure(githubApp.inspect?.(client, [read], never()) as Promise<void>)).toMatchObject(limited);
  });

  test("an agent that has used up the hour delays its revoke until GitHub listens again, and no longer", async () => {
    const { handle, secret } = await far.mint([read]);
    await using client = await githubApp.connect(far.config());
    far.github().limitedUntilMs = Date.now() + 3_000_000;
    expect(await failure(githubApp.revoke(client, handle, never()))).toMatchObject({ code: "target_unavailable" });
    far.github().limitedUntilMs = 0;
    expect(await far.use(secret, "GET /repos/{owner}/Hello-World")).toBe(200);
    expect(await far.end(handle)).toBe("dead");
  });
});
