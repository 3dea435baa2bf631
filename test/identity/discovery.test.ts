import { describe, expect, test } from "@jest/globals";
import { createKeyCache, type KeyEvent, type RegisteredSource } from "../../src/identity/key-cache.ts";
import { createSafeFetch, type SafeFetch } from "../../src/identity/safe-fetch.ts";
import { tokenSourceSchema } from "../../src/identity/trust-source.ts";
import { verifyToken } from "../../src/identity/verify-token.ts";
import { audience, issuer, keys, now, token } from "./fixtures.ts";
import { localServer } from "./local-server.ts";

const registered = (config: RegisteredSource["config"]): RegisteredSource => ({ id: "trs_1", version: 1, config });

describe("discovery, against a real server", () => {
  const safeFetch = createSafeFetch({ allowLoopbackHttp: true });

  async function discover(document: (origin: string) => object, path = "") {
    const requests: string[] = [];
    const server = await localServer((request, response) => {
      requests.push(String(request.url));
      const isDiscovery = request.url === `${path.replace(/\/$/, "")}/.well-known/openid-configuration`;
      response.writeHead(isDiscovery || request.url === "/keys" ? 200 : 404, { "content-type": "application/json" });
      response.end(JSON.stringify(isDiscovery ? document(server.origin) : { keys: [keys.p256.jwk] }));
    });
    const source = registered(tokenSourceSchema.parse({ kind: "oidc", issuer: server.origin + path }));
    const events: KeyEvent[] = [];
    const cache = createKeyCache({ fetchJson: safeFetch, nowMs: () => 0, report: (event) => events.push(event) });
    const compact = token({ iss: source.config.issuer });
    const result = await verifyToken(compact, source.config, { audience, keys: cache.keysOf(source), now });
    await server[Symbol.asyncDispose]();
    return { outcome: result.ok ? "accepted" : result.refusal.code, requests, events };
  }

  test("the keys are where the issuer's document says", async () => {
    const { outcome, requests } = await discover((origin) => ({ issuer: origin, jwks_uri: `${origin}/keys` }));
    expect([outcome, requests]).toEqual(["accepted", ["/.well-known/openid-configuration", "/keys"]]);
  });

  test("below the issuer's path, with or without a slash at its end", async () => {
    const plain = await discover((origin) => ({ issuer: `${origin}/t/a`, jwks_uri: `${origin}/keys` }), "/t/a");
    const slash = await discover((origin) => ({ issuer: `${origin}/t/a/`, jwks_uri: `${origin}/keys` }), "/t/a/");
    expect([plain.outcome, slash.outcome]).toEqual(["accepted", "accepted"]);
  });

  test.each<[name: string, document: (origin: string) => object]>([
    ["of another issuer", () => ({ issuer: "https://evil.example", jwks_uri: "https://evil.example/keys" })],
    ["whose issuer has a slash more", (origin) => ({ issuer: `${origin}/`, jwks_uri: `${origin}/keys` })],
    ["whose issuer is in capitals", (origin) => ({ issuer: origin.toUpperCase(), jwks_uri: `${origin}/keys` })],
    ["without an issuer", (origin) => ({ jwks_uri: `${origin}/keys` })],
    ["without jwks_uri", (origin) => ({ issuer: origin })],
    ["whose jwks_uri is no text", (origin) => ({ issuer: origin, jwks_uri: [`${origin}/keys`] })],
    ["that points at a metadata service", (origin) => ({ issuer: origin, jwks_uri: "http://169.254.169.254/keys" })],
    ["that points at a private address", (origin) => ({ issuer: origin, jwks_uri: "https://10.0.0.1/keys" })],
    ["that points at a file", (origin) => ({ issuer: origin, jwks_uri: "file:///etc/passwd" })],
    ["that is a list", () => []],
  ])("a document %s gives no keys, and nothing else is fetched", async (_name, document) => {
    const { outcome, requests, events } = await discover(document);
    expect([outcome, requests]).toEqual(["keys_unavailable", ["/.well-known/openid-configuration"]]);
    expect(events).toMatchObject([{ outcome: "failed", reason: "document_refused" }]);
  });

  test("a public issuer cannot send Mayfly to loopback, even where the operator allows loopback", async () => {
    const urls: string[] = [];
    const fetchJson: SafeFetch = async (url) => {
      urls.push(url);
      return { status: "fresh", document: { issuer, jwks_uri: "http://localhost:9200/" } };
    };
    const source = registered(tokenSourceSchema.parse({ kind: "oidc", issuer }));
    const cache = createKeyCache({ fetchJson, nowMs: () => 0 });
    await expect(
      verifyToken(token(), source.config, { audience, keys: cache.keysOf(source), now }),
    ).resolves.toMatchObject({ ok: false, refusal: { code: "keys_unavailable" } });
    expect(urls).toEqual([`${issuer}/.well-known/openid-configuration`]);
  });

  test("an entity tag is sent back only to where it came from", async () => {
    const sent: (string | undefined)[] = [];
    let clock = 0;
    const fetchJson: SafeFetch = async (url, { etag } = {}) => {
      if (url.endsWith("configuration"))
        return { status: "fresh", document: { issuer, jwks_uri: `${issuer}/${clock < 2e6 ? "old" : "new"}` } };
      sent.push(etag);
      return { status: "fresh", document: { keys: [] }, etag: '"v1"' };
    };
    const cache = createKeyCache({ fetchJson, nowMs: () => clock });
    cache.keysOf(registered(tokenSourceSchema.parse({ kind: "oidc", issuer })));
    for (; clock < 5e6; clock += 1e6) await cache.refreshDue();
    expect(sent).toEqual([undefined, '"v1"', undefined, '"v1"', '"v1"']);
  });
});
