import { describe, expect, test } from "@jest/globals";
import type { TokenSource } from "../../src/identity/trust-source.ts";
import { verifyToken } from "../../src/identity/verify-token.ts";
import { audience, bundle, finderOf, keys, now, nowSeconds, spiffeSource, svid, trustDomain } from "./fixtures.ts";

async function refusalCode(compact: string, source: TokenSource): Promise<string> {
  const result = await verifyToken(compact, source, { audience, keys: await finderOf(source), now });
  return result.ok ? "accepted" : result.refusal.code;
}

describe("a JWT-SVID (SPIFFE JWT-SVID §2 to §5)", () => {
  test.each<[name: string, claims: object, header: object, code: string]>([
    ["as SPIRE makes it", {}, {}, "accepted"],
    ["typ JOSE", {}, { typ: "JOSE" }, "accepted"],
    ["without typ", {}, { typ: undefined }, "accepted"],
    ["without iat, ending soon", { iat: undefined }, {}, "accepted"],
    ["with an iss, which has no meaning", { iss: "https://oidc.acme.example" }, {}, "accepted"],
    ["the longest path segment rules allow", { sub: `${trustDomain}/ns/a.b-c_d/..x/sa` }, {}, "accepted"],
    ["without iat, ending late", { iat: undefined, exp: nowSeconds + 3601 }, {}, "token_lifetime_too_long"],
    ["of another trust domain", { sub: "spiffe://evil.example/agent/a1" }, {}, "token_issuer_unknown"],
    ["of a subdomain", { sub: "spiffe://x.acme.example/agent/a1" }, {}, "token_issuer_unknown"],
    ["of a trust domain with ours as prefix", { sub: "spiffe://acme.example.evil/agent" }, {}, "token_issuer_unknown"],
    ["without sub", { sub: undefined }, {}, "token_claim_missing"],
    ["without exp", { exp: undefined }, {}, "token_claim_missing"],
    ["without aud", { aud: undefined }, {}, "token_claim_missing"],
    ["for two audiences", { aud: [audience, "x"] }, {}, "token_audience_multiple"],
    ["the trust domain itself", { sub: trustDomain }, {}, "token_claim_invalid"],
    ["a trailing slash", { sub: `${trustDomain}/agent/` }, {}, "token_claim_invalid"],
    ["an upper-case trust domain", { sub: "spiffe://ACME.example/agent" }, {}, "token_claim_invalid"],
    ["an upper-case scheme", { sub: "SPIFFE://acme.example/agent" }, {}, "token_claim_invalid"],
    ["a dot-dot segment", { sub: `${trustDomain}/agent/../admin` }, {}, "token_claim_invalid"],
    ["a dot segment", { sub: `${trustDomain}/./agent` }, {}, "token_claim_invalid"],
    ["an empty segment", { sub: `${trustDomain}//agent` }, {}, "token_claim_invalid"],
    ["percent-encoding", { sub: `${trustDomain}/agent%2Fadmin` }, {}, "token_claim_invalid"],
    ["a port", { sub: "spiffe://acme.example:443/agent" }, {}, "token_claim_invalid"],
    ["user info", { sub: "spiffe://x@acme.example/agent" }, {}, "token_claim_invalid"],
    ["a query", { sub: `${trustDomain}/agent?x` }, {}, "token_claim_invalid"],
    ["a fragment", { sub: `${trustDomain}/agent#x` }, {}, "token_claim_invalid"],
    ["a homoglyph in the path", { sub: `${trustDomain}/аgent` }, {}, "token_claim_invalid"],
    ["a plain subject", { sub: "agent" }, {}, "token_claim_invalid"],
    ["an extra header", {}, { x5t: "abc" }, "token_header_not_allowed"],
    ["a content type header", {}, { cty: "JWT" }, "token_header_not_allowed"],
    ["typ in another case", {}, { typ: "jwt" }, "token_typ_not_allowed"],
    ["typ of a WIT-SVID", {}, { typ: "wit+jwt" }, "token_kind_confused"],
    ["typ of a client assertion", {}, { typ: "client-authentication+jwt" }, "token_kind_confused"],
  ])("%s", async (_name, claims, header, code) => {
    await expect(refusalCode(svid(claims, header), spiffeSource())).resolves.toBe(code);
  });

  test("EdDSA is refused even where the bundle has such a key", async () => {
    const source = spiffeSource({ bundle: bundle(keys.p256, keys.ed25519) });
    await expect(refusalCode(svid({}, {}, keys.ed25519, "EdDSA"), source)).resolves.toBe("token_alg_not_allowed");
  });

  test("a key of the bundle for another use verifies nothing", async () => {
    const source = spiffeSource({
      bundle: {
        keys: [
          { ...keys.p256.jwk, use: "x509-svid" },
          { ...keys.rsa.jwk, use: "jwt-svid" },
        ],
      },
    });
    await expect(refusalCode(svid(), source)).resolves.toBe("token_key_unknown");
  });
});
