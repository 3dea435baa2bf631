import { generateKeyPairSync } from "node:crypto";
import { describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { trustSourceSchema } from "../../src/identity/trust-source.ts";
import { bundle, issuer, jwks, keys, privateJwk, trustDomain } from "./fixtures.ts";

const rsaKey = (modulusLength: number, publicExponent = 65_537) => ({
  kid: "k",
  ...generateKeyPairSync("rsa", { modulusLength, publicExponent }).publicKey.export({ format: "jwk" }),
});

const base = {
  oidc: { kind: "oidc", issuer },
  jwks_uri: { kind: "jwks_uri", issuer, jwks_uri: `${issuer}/keys` },
  key_set: { kind: "key_set", issuer, jwks },
  pinnedSpiffe: { kind: "spiffe", issuer: trustDomain, bundle: bundle(keys.p256) },
  remoteSpiffe: {
    kind: "spiffe",
    issuer: trustDomain,
    bundle_url: "https://spire.acme.example/bundle.json",
    bundle_profile: "https_web",
  },
};

describe("the least that must be said about a trust source, and what the rest is then", () => {
  const common = {
    max_token_age_seconds: 3600,
    required_claims: [],
    conditions: [],
    role_mappings: [],
    binding: "bearer",
  };
  const asymmetric = ["ES256", "Ed25519", "EdDSA", "RS256", "PS256"];
  test.each<[keyof typeof base, object]>([
    ["oidc", { algorithms: asymmetric, access_tokens: false, single_use: false, keys_max_age_seconds: 86_400 }],
    ["jwks_uri", { algorithms: asymmetric, access_tokens: false, single_use: false, keys_max_age_seconds: 86_400 }],
    ["key_set", { algorithms: asymmetric, single_use: true }],
    [
      "pinnedSpiffe",
      { algorithms: ["ES256", "ES384", "RS256", "PS256"], single_use: false, keys_max_age_seconds: 86_400 },
    ],
    [
      "remoteSpiffe",
      { algorithms: ["ES256", "ES384", "RS256", "PS256"], single_use: false, keys_max_age_seconds: 86_400 },
    ],
  ])("%s", (name, defaults) => {
    expect(trustSourceSchema.parse(base[name])).toEqual({ ...base[name], ...common, ...defaults });
  });

  test("parsing what was parsed changes nothing, so it can be stored", () => {
    for (const source of Object.values(base)) {
      const once = trustSourceSchema.parse(source);
      expect(trustSourceSchema.parse(JSON.parse(JSON.stringify(once)))).toEqual(once);
    }
  });

  test("it can be written as JSON Schema for OpenAPI", () => {
    expect(z.toJSONSchema(trustSourceSchema, { io: "input" })).toMatchObject({ oneOf: expect.any(Array) });
  });
});

const mapping = { when: [{ claim: "groups", contains: "mayfly-admins" }], roles: ["admin"] };

describe("what may be said", () => {
  test.each<[name: string, kind: keyof typeof base, changes: object]>([
    ["an issuer with a path and a trailing slash", "oidc", { issuer: "https://login.example/tenant/v2.0/" }],
    ["an issuer on a high port", "oidc", { issuer: "https://issuer.example:8443" }],
    ["a loopback issuer, which only the fetch may refuse", "oidc", { issuer: "http://127.0.0.1:4000" }],
    [
      "a cluster-internal issuer with pinned keys",
      "key_set",
      { issuer: "https://kubernetes.default.svc.cluster.local" },
    ],
    ["a plain name as issuer of pinned keys", "key_set", { issuer: "urn:example:ci-runner" }],
    ["ES384 alone", "oidc", { algorithms: ["ES384"] }],
    ["the longest age", "oidc", { max_token_age_seconds: 86_400 }],
    ["a role mapping", "oidc", { role_mappings: [mapping] }],
    ["a nested required claim", "oidc", { required_claims: ["/kubernetes.io/pod/uid"] }],
    [
      "every SPIFFE algorithm",
      "pinnedSpiffe",
      { algorithms: ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"] },
    ],
    [
      "a bundle with X.509 authorities besides",
      "pinnedSpiffe",
      {
        bundle: {
          keys: [
            ...bundle(keys.p256).keys,
            { kty: "EC", use: "x509-svid", crv: "P-256", x: "a", y: "b", x5c: ["MIIB"] },
          ],
        },
      },
    ],
    ["sender-constrained tokens", "oidc", { binding: "dpop" }],
  ])("%s", (_name, kind, changes) => {
    expect(trustSourceSchema.safeParse({ ...base[kind], ...changes }).success).toBe(true);
  });
});

describe("what cannot be said", () => {
  test.each<[name: string, kind: keyof typeof base, changes: object, path: string]>([
    ["HS256", "oidc", { algorithms: ["HS256"] }, "algorithms.0"],
    ["none", "key_set", { algorithms: ["ES256", "none"] }, "algorithms.1"],
    ["no algorithm", "oidc", { algorithms: [] }, "algorithms"],
    ["EdDSA for SPIFFE", "pinnedSpiffe", { algorithms: ["EdDSA"] }, "algorithms.0"],
    ["Ed25519 for SPIFFE", "remoteSpiffe", { algorithms: ["Ed25519"] }, "algorithms.0"],
    ["an issuer over http", "oidc", { issuer: "http://issuer.example" }, "issuer"],
    ["an issuer with a query", "oidc", { issuer: "https://issuer.example/?a=b" }, "issuer"],
    ["an issuer with an empty query", "oidc", { issuer: "https://issuer.example/?" }, "issuer"],
    ["an issuer with a fragment", "oidc", { issuer: "https://issuer.example/#a" }, "issuer"],
    ["an issuer with user info", "oidc", { issuer: "https://u:p@issuer.example" }, "issuer"],
    ["an issuer with an upper-case host", "oidc", { issuer: "https://Issuer.example" }, "issuer"],
    ["an issuer with the default port", "oidc", { issuer: "https://issuer.example:443" }, "issuer"],
    ["an issuer with dots", "oidc", { issuer: "https://issuer.example/a/../b" }, "issuer"],
    ["an issuer that is a metadata service", "oidc", { issuer: "https://169.254.169.254" }, "issuer"],
    ["an issuer in a private network", "oidc", { issuer: "https://10.0.0.1" }, "issuer"],
    ["a SPIFFE issuer of a plain key set", "key_set", { issuer: "spiffe://acme.example" }, "issuer"],
    ["a SPIFFE issuer in capitals", "jwks_uri", { issuer: "SPIFFE://acme.example" }, "issuer"],
    ["an issuer with a space", "key_set", { issuer: "a b" }, "issuer"],
    ["an empty issuer", "key_set", { issuer: "" }, "issuer"],
    ["a trust domain with a path", "pinnedSpiffe", { issuer: "spiffe://acme.example/x" }, "issuer"],
    ["a trust domain in capitals", "pinnedSpiffe", { issuer: "spiffe://ACME.example" }, "issuer"],
    ["a trust domain as https", "pinnedSpiffe", { issuer: "https://acme.example" }, "issuer"],
    ["a JWKS over http", "jwks_uri", { jwks_uri: "http://issuer.example/keys" }, "jwks_uri"],
    ["a JWKS in a file", "jwks_uri", { jwks_uri: "file:///keys" }, "jwks_uri"],
    ["a bundle and a bundle URL", "pinnedSpiffe", { bundle_url: "https://spire.acme.example" }, "bundle_url"],
    ["neither bundle nor bundle URL", "remoteSpiffe", { bundle_url: undefined }, "bundle_url"],
    ["the role agent", "oidc", { role_mappings: [{ ...mapping, roles: ["agent"] }] }, "role_mappings.0.roles.0"],
    ["a role for everybody", "oidc", { role_mappings: [{ ...mapping, when: [] }] }, "role_mappings.0.when"],
    [
      "a role for the issuer",
      "oidc",
      { role_mappings: [{ ...mapping, when: [{ claim: "iss", equals: issuer }] }] },
      "role_mappings.0.when.0.claim",
    ],
    ["a mapping to nothing", "oidc", { role_mappings: [{ ...mapping, roles: [] }] }, "role_mappings.0.roles"],
    ["an age beyond a day", "oidc", { max_token_age_seconds: 86_401 }, "max_token_age_seconds"],
    ["an age of zero", "oidc", { max_token_age_seconds: 0 }, "max_token_age_seconds"],
    ["a member that nobody knows", "oidc", { max_token_age: 60 }, ""],
    ["another kind's member", "oidc", { jwks_uri: "https://x.example" }, ""],
    ["an unknown kind", "oidc", { kind: "saml" }, "kind"],
    ["an empty key set", "key_set", { jwks: { keys: [] } }, "jwks.keys"],
    ["21 keys", "key_set", { jwks: { keys: Array.from({ length: 21 }, () => keys.p256.jwk) } }, "jwks.keys"],
    ["a private key", "key_set", { jwks: { keys: [privateJwk(keys.p256)] } }, "jwks.keys.0"],
    [
      "a private RSA key beside a public one",
      "key_set",
      { jwks: { keys: [keys.p256.jwk, privateJwk(keys.rsa)] } },
      "jwks.keys.1",
    ],
    ["a shared key", "key_set", { jwks: { keys: [{ kty: "oct", k: "c2VjcmV0" }] } }, "jwks.keys.0"],
    [
      "a private key in a bundle, for X.509",
      "pinnedSpiffe",
      { bundle: { keys: [...bundle(keys.p256).keys, { ...privateJwk(keys.rsa), use: "x509-svid" }] } },
      "bundle.keys.1",
    ],
    ["an encryption key", "key_set", { jwks: { keys: [{ ...keys.rsa.jwk, use: "enc" }] } }, "jwks.keys.0"],
    ["an RSA key of 1024 bits", "key_set", { jwks: { keys: [rsaKey(1024)] } }, "jwks.keys.0"],
    ["an RSA key with exponent 3", "key_set", { jwks: { keys: [rsaKey(2048, 3)] } }, "jwks.keys.0"],
    ["an RSA key with exponent 1", "key_set", { jwks: { keys: [{ ...keys.rsa.jwk, e: "AQ" }] } }, "jwks.keys.0"],
    [
      "a point that is not on the curve",
      "key_set",
      { jwks: { keys: [{ ...keys.p256.jwk, x: keys.p256.jwk.y }] } },
      "jwks.keys.0",
    ],
    [
      "a curve that we do not know",
      "key_set",
      { jwks: { keys: [{ ...keys.p256.jwk, crv: "secp256k1" }] } },
      "jwks.keys.0",
    ],
    [
      "an alg that is not the key's",
      "key_set",
      { jwks: { keys: [{ ...keys.p256.jwk, alg: "RS256" }] } },
      "jwks.keys.0",
    ],
    ["a key without its modulus", "key_set", { jwks: { keys: [{ kty: "RSA", e: "AQAB" }] } }, "jwks.keys.0"],
    [
      "a bundle without a JWT authority",
      "pinnedSpiffe",
      { bundle: { keys: [{ ...keys.p256.jwk, use: "x509-svid" }] } },
      "bundle.keys",
    ],
    [
      "a bundle whose JWT authority has no kid",
      "pinnedSpiffe",
      { bundle: { keys: [{ ...keys.p256.jwk, kid: undefined, use: "jwt-svid" }] } },
      "bundle.keys",
    ],
    [
      "a bundle key with use sig",
      "pinnedSpiffe",
      { bundle: { keys: [{ ...keys.p256.jwk, use: "sig" }] } },
      "bundle.keys",
    ],
  ])("%s", (_name, kind, changes, path) => {
    const result = trustSourceSchema.safeParse({ ...base[kind], ...changes });
    expect(result.error?.issues.map((issue) => issue.path.join("."))).toContain(path);
  });
});
