import { generateKeyPairSync } from "node:crypto";
import { describe, expect, test } from "@jest/globals";
import { oauthIssuer } from "../../src/issuers/oauth.ts";
import { json, localServer } from "../identity/local-server.ts";
import { failure, never } from "./conformance.ts";
import { type Access, type Config, oauthHarness, read } from "./oauth-harness.ts";
import { SECRET } from "./oauth-server.ts";

const far = oauthHarness();
const metadata = (more: object): void => {
  far.server().change = (at, body) => (at.includes(".well-known") ? { ...body, ...more } : body);
};
const looked = async (changes: Partial<Config> = {}, access: Access = read): Promise<unknown> => {
  await using client = await oauthIssuer.connect({ ...far.config(), ...changes });
  return await failure(oauthIssuer.inspect?.(client, [access], never()) as Promise<void>);
};

describe("the server's metadata", () => {
  test.each<[string, object, RegExp]>([
    ["no revocation endpoint", { revocation_endpoint: undefined }, /"revocation": "none"/],
    ["no introspection endpoint", { introspection_endpoint: undefined }, /probe_url/],
    ["no token endpoint", { token_endpoint: undefined }, /no token_endpoint/],
    ["without the grant", { grant_types_supported: ["authorization_code"] }, /grant client_credentials/],
    [
      "without the way to authenticate",
      { token_endpoint_auth_methods_supported: ["tls_client_auth"] },
      /client_secret_post/,
    ],
    ["without it at revocation", { revocation_endpoint_auth_methods_supported: ["none"] }, /client_secret_post/],
    ["without it at introspection", { introspection_endpoint_auth_methods_supported: ["none"] }, /client_secret_post/],
    ["a token endpoint elsewhere", { token_endpoint: "https://evil.test/token" }, /token_endpoint.*endpoint_origins/],
    [
      "a revocation endpoint elsewhere",
      { revocation_endpoint: "https://evil.test/r" },
      /revocation_endpoint.*endpoint_origins/,
    ],
    [
      "an introspection endpoint elsewhere",
      { introspection_endpoint: "http://127.0.0.1:9/" },
      /introspection_endpoint/,
    ],
    ["another issuer", { issuer: "https://evil.test" }, /not of the issuer/],
    ["no issuer", { issuer: undefined }, /not of the issuer/],
  ])("%s: refused with what to change", async (_what, more, detail) => {
    metadata(more);
    expect(await looked()).toMatchObject({ code: "target_refused", detail: expect.stringMatching(detail) });
  });

  test("an issuer that is spelled otherwise is another", async () => {
    metadata({ issuer: `${far.server().issuer}/` });
    expect(await looked()).toMatchObject({
      code: "target_refused",
      detail: expect.stringMatching(/not of the issuer/),
    });
  });

  test("that say nothing of grants and methods are not held against the server", async () => {
    metadata({ grant_types_supported: undefined, token_endpoint_auth_methods_supported: undefined });
    await using client = await oauthIssuer.connect(far.config());
    await oauthIssuer.inspect?.(client, [read], never());
  });

  test("of OpenID Connect are read where those of RFC 8414 are not", async () => {
    far.server().instead = (at) => (at.endsWith("/oauth-authorization-server") ? { status: 404 } : undefined);
    expect((await far.mint()).handle.token).toBeDefined();
    expect(far.server().asked.map(({ at }) => at)).toContain("GET /.well-known/openid-configuration");
  });

  test("that cannot be read now are to be tried again", async () => {
    far.server().instead = (at) => (at.includes(".well-known") ? { status: 503 } : undefined);
    expect(await looked()).toMatchObject({ code: "target_unavailable" });
    expect(await failure(far.mint())).toMatchObject({ code: "target_unavailable" });
  });

  test("are read once for many mints", async () => {
    await using client = await oauthIssuer.connect(far.config());
    for (let i = 0; i < 3; i += 1) await oauthIssuer.probe(client, { token: "x" }, never());
    expect(far.server().asked.filter(({ at }) => at.includes(".well-known"))).toHaveLength(1);
  });

  test("send no secret to an endpoint elsewhere, not even at a mint", async () => {
    const strangers: string[] = [];
    await using elsewhere = await localServer((request, response) => {
      strangers.push(request.url ?? "");
      json({})(request, response);
    });
    metadata({ token_endpoint: `${elsewhere.origin}/token`, revocation_endpoint: `${elsewhere.origin}/r` });
    expect(await failure(far.mint())).toMatchObject({ code: "target_rejected" });
    await using client = await oauthIssuer.connect(far.config());
    expect(await failure(oauthIssuer.revoke(client, { token: "x" }, never()))).toMatchObject({
      code: "target_rejected",
    });
    expect(strangers).toEqual([]);
    // Unless the admin has said that it may be there.
    const config = { ...far.config(), endpoint_origins: [elsewhere.origin] };
    await failure(far.mint({ config }));
    expect(strangers).toEqual(["/token"]);
  });
});

describe("tokens of one refresh token", () => {
  const config = async (client_id: string): Promise<Partial<Config>> => ({
    client_id,
    grant: "refresh_token",
    refresh_token: await far.server().refreshToken(client_id),
  });
  const plain = { scope: ["read"] };

  test("that die together are refused: no credential could be taken back alone", async () => {
    far.server().grantsDieWhole = true;
    expect(await looked(await config("mayfly-user"), plain)).toMatchObject({
      code: "target_refused",
      detail: expect.stringContaining("one by one"),
    });
  });

  test("that die alone pass, and the two that were made for it are taken back", async () => {
    await using client = await oauthIssuer.connect({ ...far.config(), ...(await config("mayfly-user")) });
    await oauthIssuer.inspect?.(client, [plain], never());
    const presented = new Set(far.takenBack());
    expect(presented.size).toBe(2);
    for (const token of presented)
      expect((await oauthIssuer.probe(client, { token: token ?? "" }, never())).outcome).toBe("dead");
  });

  test("that is replaced at its use are refused", async () => {
    expect(await looked(await config("mayfly-rotating"), plain)).toMatchObject({
      code: "target_refused",
      detail: expect.stringContaining("replaces the refresh token"),
    });
  });
});

describe("a configuration", () => {
  const ec = (namedCurve: string): string =>
    generateKeyPairSync("ec", { namedCurve }).privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  const byKey = { client_authentication: "private_key_jwt", client_secret: undefined };
  const parsed = (changes: object): boolean => oauthIssuer.config.safeParse({ ...far.config(), ...changes }).success;

  test.each<[string, object]>([
    ["http to another host", { issuer: "http://login.test" }],
    ["credentials in the issuer", { issuer: "https://a:b@login.test" }],
    ["a query in the issuer", { issuer: "https://login.test?a=b" }],
    ["a fragment in the issuer", { issuer: "https://login.test#a" }],
    ["a client id with a line break", { client_id: "a\nb" }],
    ["no secret", { client_secret: undefined }],
    ["a secret with a line break", { client_secret: "a\r\nb" }],
    ["a key and a secret", { private_key: ec("P-256") }],
    ["no key", byKey],
    ["a key of another curve", { ...byKey, private_key: ec("P-384") }],
    ["a key that is none", { ...byKey, private_key: "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----" }],
    ["a grant without its token", { grant: "refresh_token" }],
    ["a token without its grant", { refresh_token: "x" }],
    ["an exchange without a subject", { grant: "token_exchange" }],
    ["another grant", { grant: "password" }],
    ["an origin with a path", { endpoint_origins: ["https://login.test/token"] }],
    ["an origin in plain http", { endpoint_origins: ["http://login.test"] }],
    ["a probe in plain http", { probe_url: "http://api.test" }],
    ["tokens that live for ever", { max_token_seconds: 86_401 }],
  ])("with %s is none", (_what, changes) => {
    expect(parsed(changes)).toBe(false);
  });

  test("with a P-256 or an RSA key, at a tenant's path, is one", () => {
    const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const pem = rsa.privateKey.export({ type: "pkcs8", format: "pem" }).toString();
    for (const private_key of [ec("P-256"), pem]) expect(parsed({ ...byKey, private_key })).toBe(true);
    expect(parsed({ issuer: "https://login.test/tenants/a-b/v2.0" })).toBe(true);
  });

  test("that is not one does not say what the secret was", () => {
    const given = { ...far.config(), client_secret: `${SECRET}\n`, private_key: `${SECRET}x` };
    expect(JSON.stringify(oauthIssuer.config.safeParse(given).error)).not.toContain(SECRET);
  });

  test.each<[string, object]>([
    ["no scope, which servers take for all", { scope: [] }],
    ["a scope that is two", { scope: ["read write"] }],
    ["a scope with a quote", { scope: ['read"'] }],
    ["a scope that asks for a refresh token", { scope: ["offline_access"] }],
    ["a scope that asks who the user is", { scope: ["openid"] }],
    ["a resource with a fragment", { scope: ["read"], resource: "https://api.test/#a" }],
    ["a resource that is relative", { scope: ["read"], resource: "/api" }],
    ["a resource with a space", { scope: ["read"], resource: "https://api.test/ x" }],
    ["an audience with a line break", { scope: ["read"], audience: "a\nb" }],
  ])("access with %s is not accepted", (_what, access) => {
    expect(oauthIssuer.access.safeParse(access).success).toBe(false);
  });
});
