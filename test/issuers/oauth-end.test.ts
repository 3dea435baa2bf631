import { describe, expect, test } from "@jest/globals";
import { oauthIssuer } from "../../src/issuers/oauth.ts";
import type { Secret } from "../../src/lib/secret.ts";
import { localServer } from "../identity/local-server.ts";
import { failure, never } from "./conformance.ts";
import { type Config, oauthHarness, read } from "./oauth-harness.ts";
import { JWT_API, type Reply } from "./oauth-server.ts";

const far = oauthHarness();
const invalidToken = { "www-authenticate": 'Bearer realm="api", error="invalid_token"' };
const jwt = { scope: ["read"], resource: JWT_API };

describe("no false death", () => {
  test.each<[string, Reply]>([
    ["an outage", { status: 503 }],
    ["a limit", { status: 429 }],
    ["a bare 404", { status: 404 }],
    ["a page instead of an answer", { status: 200, body: "<html>active: false</html>" }],
    ["no word of active", { status: 200, body: {} }],
    ["active as text", { status: 200, body: { active: "false" } }],
    ["a 403", { status: 403, body: { active: false } }],
    ["a client that is not known any more", { status: 401, body: { error: "invalid_client" } }],
    ["a redirect", { status: 302, headers: { location: "/login" } }],
  ])("introspection that answers with %s is unknown", async (_what, reply) => {
    const { handle } = await far.mint();
    await using client = await oauthIssuer.connect(far.config());
    far.server().instead = (at) => (at.endsWith("/introspection") ? reply : undefined);
    for (const one of [handle, {}])
      expect(await oauthIssuer.probe(client, one, never())).toMatchObject({
        outcome: "unknown",
        by: "introspection",
      });
    far.server().instead = undefined;
    expect((await oauthIssuer.probe(client, handle, never())).outcome).toBe("alive");
    expect(await far.end(handle)).toBe("dead");
  });

  test.each<[string, Reply]>([
    ["401 without a challenge", { status: 401 }],
    ["401 with another error", { status: 401, headers: { "www-authenticate": 'Bearer error="invalid_request"' } }],
    ["401 of a proxy", { status: 401, headers: { "www-authenticate": "Basic realm=invalid_token" } }],
    ["403 with the challenge", { status: 403, headers: invalidToken }],
    ["404", { status: 404 }],
    ["500", { status: 500, headers: invalidToken }],
  ])("an API that answers with %s is unknown", async (_what, reply) => {
    await using api = await localServer((_request, response) => {
      response.writeHead(reply.status, reply.headers).end();
    });
    await using client = await oauthIssuer.connect({ ...far.config(), probe_url: api.origin });
    for (const handle of [{ token: "a-token" }, {}])
      expect(await oauthIssuer.probe(client, handle, never())).toMatchObject({ outcome: "unknown" });
  });

  test.each([
    'Bearer error="invalid_token"',
    'Bearer realm="a", error="invalid_token", error_description="gone"',
    'DPoP algs="ES256", Bearer error=invalid_token',
  ])("an API that answers 401 %s has said it", async (challenge) => {
    await using api = await localServer((_request, response) => {
      response.writeHead(401, { "www-authenticate": challenge }).end();
    });
    await using client = await oauthIssuer.connect({ ...far.config(), probe_url: api.origin });
    const seen = await oauthIssuer.probe(client, { token: "a-token" }, never());
    expect(seen).toMatchObject({ outcome: "dead", by: "use_of_token" });
  });

  test("a token of which nothing was kept is called so: it was never handed out", async () => {
    await using client = await oauthIssuer.connect(far.config());
    expect(await oauthIssuer.probe(client, {}, never())).toMatchObject({ outcome: "dead", by: "never_kept" });
  });
});

describe("an API that is probed", () => {
  test("proves life and death by effect, where the server has no introspection", async () => {
    far.server().change = (at, body) =>
      at.includes(".well-known") ? { ...body, introspection_endpoint: undefined } : body;
    const config: Config = { ...far.config(), probe_url: far.server().api.origin };
    await using client = await oauthIssuer.connect(config);
    await oauthIssuer.inspect?.(client, [read], never());
    const { handle, secret } = await far.mint({ config });
    expect((await oauthIssuer.probe(client, handle, never())).outcome).toBe("alive");
    await oauthIssuer.revoke(client, handle, never());
    expect(await oauthIssuer.probe(client, handle, never())).toMatchObject({ outcome: "dead", by: "use_of_token" });
    expect(await far.use(secret)).toBe(401);
  });
});

describe("a revoke", () => {
  test("is tried again when the server is out, and says when", async () => {
    const { handle } = await far.mint();
    await using client = await oauthIssuer.connect(far.config());
    far.server().instead = (at) =>
      at.endsWith("/revocation") ? { status: 503, headers: { "retry-after": "5" } } : undefined;
    expect(await failure(oauthIssuer.revoke(client, handle, never()))).toMatchObject({
      code: "target_unavailable",
      retryAfterSeconds: 5,
    });
    far.server().instead = undefined;
    expect(await far.end(handle)).toBe("dead");
  });

  test("of another client's token leaves it alone: 200, and the probe still says alive", async () => {
    const { handle, secret } = await far.mint();
    const other: Config = { ...far.config(), client_id: "mayfly-basic", client_authentication: "client_secret_basic" };
    expect(await far.end(handle, other)).toBe("alive");
    expect(await far.use(secret)).toBe(200);
  });

  test("of a refresh token that came along takes it back too", async () => {
    await using client = await oauthIssuer.connect({ ...far.config(), client_id: "mayfly-user" });
    const refresh_token = await far.server().refreshToken("mayfly-user");
    await oauthIssuer.revoke(client, { token: "gone", refresh_token }, never());
    const config: Config = { ...far.config(), client_id: "mayfly-user", grant: "refresh_token", refresh_token };
    expect(await failure(far.mint({ config, access: [{ scope: ["read"] }] }))).toMatchObject({
      detail: expect.stringContaining("invalid_grant"),
    });
  });

  test("is told in the server's own way that the server cannot: JWTs (unsupported_token_type)", async () => {
    const held = await failure(far.mint({ access: [jwt], signal: far.atSecondLook() }));
    expect(held).toMatchObject({ detail: expect.stringContaining("unsupported_token_type") });
    const { secret } = await far.mint({ access: [jwt], config: { ...far.config(), revocation: "none" } });
    await using client = await oauthIssuer.connect(far.config());
    const token = (secret.access_token as Secret).reveal();
    expect(await failure(oauthIssuer.revoke(client, { token }, never()))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("unsupported_token_type"),
    });
    expect((await oauthIssuer.probe(client, { token }, never())).outcome).toBe("unknown");
  });
});

describe("a target whose tokens nobody can take back", () => {
  const config = (): Config => ({ ...far.config(), revocation: "none" });

  test("says so in its bounds, before anything is minted", () => {
    expect(oauthIssuer.bounds(config())).toMatchObject({ revocability: "expiry", backstopSeconds: 600 });
    expect(oauthIssuer.bounds(far.config())).toMatchObject({ revocability: "immediate", backstopSeconds: 600 });
  });

  test("mints, and asks for neither revocation nor introspection", async () => {
    far.server().change = (at, body) =>
      at.includes(".well-known")
        ? { ...body, revocation_endpoint: undefined, introspection_endpoint: undefined }
        : body;
    await using client = await oauthIssuer.connect(config());
    await oauthIssuer.inspect?.(client, [jwt], never());
    const { secret, handle } = await far.mint({ config: config(), access: [jwt] });
    expect(handle.token).toBe((secret.access_token as Secret).reveal());
    expect(
      far
        .server()
        .asked.map(({ at }) => at)
        .filter((at) => at.startsWith("POST")),
    ).toEqual(["POST /token"]);
  });

  test("hands out no token that lives longer than it says, although it cannot take it back", async () => {
    far.server().change = (at, body) => (at === "POST /token" ? { ...body, expires_in: 601 } : body);
    expect(await failure(far.mint({ config: config(), access: [jwt] }))).toMatchObject({ code: "target_rejected" });
  });
});
