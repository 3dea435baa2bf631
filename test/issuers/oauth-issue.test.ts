import { inspect } from "node:util";
import { describe, expect, test } from "@jest/globals";
import { oauthIssuer } from "../../src/issuers/oauth.ts";
import type { Secret } from "../../src/lib/secret.ts";
import { failure, never } from "./conformance.ts";
import { type Config, oauthHarness, read } from "./oauth-harness.ts";
import { API, LIVES_SECONDS, OTHER_API, SECRET } from "./oauth-server.ts";

const far = oauthHarness();
const asks = (): URLSearchParams[] =>
  far
    .server()
    .asked.filter(({ at }) => at === "POST /token")
    .map(({ form }) => form);

describe("what a token may do", () => {
  test("is the scopes that were asked for, at the resource that was asked for", async () => {
    const { secret, handle } = await far.mint({ access: [read, read] });
    expect(Object.fromEntries(asks()[0] ?? [])).toMatchObject({ scope: "read", resource: API });
    expect(secret).toMatchObject({ token_type: "Bearer", scope: "read" });
    expect([await far.use(secret), await far.use(secret, "POST")]).toEqual([200, 403]);
    expect(await far.end(handle)).toBe("dead");
    expect(await far.use(secret)).toBe(401);
  });

  test("is asked with the audience, where a server calls it so", async () => {
    await far.mint({ access: [{ scope: ["read"], audience: "tickets" }] });
    expect(asks()[0]?.get("audience")).toBe("tickets");
  });

  test.each([
    ["resources", { scope: ["read"], resource: OTHER_API }],
    ["audiences", { ...read, audience: "tickets" }],
    ["a resource and none", { scope: ["read"] }],
  ])("for several %s is no one token: refused before the server is asked", async (_what, other) => {
    expect(await failure(far.mint({ access: [read, other] }))).toMatchObject({ code: "target_rejected" });
    expect(far.server().asked).toEqual([]);
  });

  test.each<[string, object]>([
    ["with a scope that was not asked for", { scope: "read admin" }],
    ["with no scope that is text", { scope: ["read"] }],
    ["bound to a key that nobody has", { token_type: "DPoP" }],
    ["of another type", { token_type: "mac" }],
    ["of no type", { token_type: undefined }],
    ["that does not say when it ends", { expires_in: undefined }],
    ["that ends later than the target says", { expires_in: 601 }],
    ["that has ended", { expires_in: 0 }],
    ["that ended long ago", { expires_in: -1 }],
    ["with a refresh token beside it", { refresh_token: "unasked" }],
  ])("a token %s is taken back and not handed out", async (_what, more) => {
    far.server().change = (at, body) => (at === "POST /token" ? { ...body, ...more } : body);
    let kept: { token?: string | undefined } = {};
    const minted = far.mint({
      keep: async (handle) => {
        kept = handle;
      },
    });
    expect(await failure(minted)).toMatchObject({ code: "target_rejected" });
    expect(far.takenBack()).toContain(kept.token);
    if ("refresh_token" in more) expect(far.takenBack()).toContain("unasked");
    expect(await far.end(kept)).toBe("dead");
  });

  test("without a word of scope or audience is what was asked for", async () => {
    far.server().change = (_at, body) => ({ ...body, scope: undefined });
    expect((await far.mint()).secret.scope).toBe("read");
  });
});

describe("a token", () => {
  test("ends no later than the server says, also when that is earlier than was asked", async () => {
    expect((await far.mint()).expiresAt).toBeUndefined();
    const { secret, expiresAt } = await far.mint({ expiresAt: new Date(Date.now() + 2 * LIVES_SECONDS * 1000) });
    const ends = await far.endOf((secret.access_token as Secret).reveal());
    expect(expiresAt?.getTime()).toBeLessThanOrEqual(ends.getTime() + 1000);
    expect(expiresAt?.getTime()).toBeGreaterThan(ends.getTime() - 60_000);
  });

  test("is kept before anything else is done with it, and taken back by its issue when it cannot be kept", async () => {
    const error = new Error("no database");
    let token: string | undefined;
    const minted = far.mint({
      keep: async (handle) => {
        token = handle.token;
        expect(far.server().asked.at(-1)?.at).toBe("POST /token");
        throw error;
      },
    });
    expect(await failure(minted)).toBe(error);
    expect(far.takenBack()).toEqual([token]);
    expect(await far.end({ token })).toBe("dead");
  });

  test("is taken back by its issue also when the caller has gone meanwhile", async () => {
    const stop = new AbortController();
    const keep = async (): Promise<never> => {
      stop.abort();
      throw new Error("gone");
    };
    await failure(far.mint({ signal: stop.signal, keep }));
    expect(far.takenBack()).toHaveLength(1);
  });

  test("of which introspection says that it is not active is not handed out: its death could not be told from that", async () => {
    far.server().change = (at, body) => (at.endsWith("introspection") ? { active: false } : body);
    expect(await failure(far.mint({ signal: far.atSecondLook() }))).toMatchObject({ code: "target_unavailable" });
    expect(far.takenBack()).toHaveLength(1);
  });

  test("that the server does not know at once everywhere is waited for", async () => {
    let looks = 0;
    far.server().change = (at, body) => {
      if (!at.endsWith("introspection")) return body;
      looks += 1;
      return looks < 3 ? { active: false } : body;
    };
    const { secret } = await far.mint();
    expect(looks).toBe(3);
    far.server().change = undefined;
    expect(await far.use(secret)).toBe(200);
  });

  test.each(["nothing", "text", "no token", "a token that fits into no header"])(
    "an answer with %s is an error that can be named",
    async (what) => {
      const bodies: Record<string, unknown> = {
        text: "<html>",
        "no token": { token_type: "Bearer", expires_in: 60 },
        "a token that fits into no header": { access_token: "a\r\nb: c", token_type: "Bearer", expires_in: 60 },
      };
      far.server().instead = (at) => (at === "POST /token" ? { status: 200, body: bodies[what] } : undefined);
      expect(await failure(far.mint())).toMatchObject({ code: "target_rejected" });
    },
  );
});

describe("how the client is known, and what it asks with", () => {
  test.each<[string, () => Partial<Config>]>([
    ["a secret in the header", () => ({ client_id: "mayfly-basic", client_authentication: "client_secret_basic" })],
    [
      "a key of its own",
      () => ({
        client_id: "mayfly-key",
        client_authentication: "private_key_jwt",
        client_secret: undefined,
        private_key: far.server().privateKey,
        key_id: "k1",
      }),
    ],
    [
      "a refresh token that stays with us",
      () => ({ client_id: "mayfly-user", grant: "refresh_token", refresh_token: refreshToken }),
    ],
    [
      "somebody's token that it exchanges",
      () => ({ client_id: "mayfly-exchange", grant: "token_exchange", subject_token: subjectToken }),
    ],
  ])("%s", async (what, changes) => {
    if (what.includes("refresh")) refreshToken = await far.server().refreshToken("mayfly-user");
    if (what.includes("exchanges")) subjectToken = ((await far.mint()).secret.access_token as Secret).reveal();
    const config = oauthIssuer.config.parse({ ...far.config(), ...changes() });
    // A user's tokens are for what the user has consented to; the exchange of the tests knows no resources.
    const access = config.grant === "client_credentials" ? [read] : [{ scope: ["read"] }];
    await using client = await oauthIssuer.connect(config);
    await oauthIssuer.inspect?.(client, access, never());
    for (let i = 0; i < 2; i += 1) {
      const { secret, handle } = await far.mint({ config, access });
      expect([await far.use(secret), await far.use(secret, "POST")]).toEqual([200, 403]);
      expect(JSON.stringify(handle)).not.toContain(refreshToken);
      expect(await far.end(handle, config)).toBe("dead");
      expect(await far.use(secret)).toBe(401);
    }
  });
  let refreshToken = "none";
  let subjectToken = "none";

  test("a server that replaces the refresh token at its use is refused: both that it made are taken back", async () => {
    const config = {
      ...far.config(),
      client_id: "mayfly-rotating",
      grant: "refresh_token",
      refresh_token: await far.server().refreshToken("mayfly-rotating"),
    } as const;
    expect(await failure(far.mint({ config, access: [{ scope: ["read"] }] }))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("replaces the refresh token"),
    });
    expect(far.takenBack()).toHaveLength(2);
  });

  test("an exchange that gives something else than an access token is refused", async () => {
    const subject_token = ((await far.mint()).secret.access_token as Secret).reveal();
    const config = { ...far.config(), client_id: "mayfly-exchange", grant: "token_exchange", subject_token } as const;
    far.server().change = (_at, body) => ({ ...body, issued_token_type: "urn:ietf:params:oauth:token-type:jwt" });
    expect(await failure(far.mint({ config, access: [{ scope: ["read"] }] }))).toMatchObject({
      code: "target_rejected",
    });
  });
});

describe("a refusal of the server", () => {
  test.each([
    ["invalid_scope", { scope: ["admin"], resource: undefined }],
    ["invalid_target", { scope: ["read"], resource: "urn:no:url" }],
  ])("%s is told in our words", async (code, access) => {
    if (code === "invalid_target")
      far.server().instead = (at) =>
        at === "POST /token" ? { status: 400, body: { error: code, error_description: SECRET } } : undefined;
    const error = await failure(far.mint({ access: [access] }));
    expect(error).toMatchObject({ code: "target_rejected", detail: expect.stringContaining(code) });
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(SECRET);
  });

  test.each([
    [429, { "retry-after": "9" }, 9],
    [503, {}, undefined],
    [500, {}, undefined],
  ])("%i is to be tried again", async (status, headers, retryAfterSeconds) => {
    far.server().instead = (at) => (at === "POST /token" ? { status, headers, body: { error: "no" } } : undefined);
    expect(await failure(far.mint())).toMatchObject({ code: "target_unavailable", retryAfterSeconds });
  });

  test("that quotes what was sent stays out of errors", async () => {
    far.server().instead = (at) =>
      at === "POST /token" ? { status: 401, body: { error: SECRET, error_description: SECRET } } : undefined;
    const error = await failure(far.mint());
    expect(error).toMatchObject({ code: "target_rejected" });
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(SECRET);
  });

  test("no token is in an error about its answer", async () => {
    let token = "";
    far.server().change = (at, body) => {
      if (at === "POST /token") token = (body as { access_token: string }).access_token;
      return { ...body, token_type: 7 };
    };
    const error = await failure(far.mint());
    expect(token).not.toBe("");
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(token);
  });
});
