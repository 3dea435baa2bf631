import { generateKeyPairSync } from "node:crypto";
import { describe, expect, test } from "@jest/globals";
import { findIn, importKeySet, KeySetError } from "../../src/identity/key-set.ts";
import { signatureAlgorithms } from "../../src/identity/public-jwk.ts";
import { bundle, jwks, keys, privateJwk } from "./fixtures.ts";

const rsa = (modulusLength: number, publicExponent = 65_537) => ({
  kid: "weak",
  ...generateKeyPairSync("rsa", { modulusLength, publicExponent }).publicKey.export({ format: "jwk" }),
});

describe("a published key set: what can be used is used, the rest is left out and named", () => {
  test.each<[name: string, jwk: unknown, why: string]>([
    ["a shared key", { kty: "oct", k: "c2VjcmV0", kid: "x" }, "it is a private or a shared key"],
    ["a shared key that shows nothing", { kty: "oct", kid: "x" }, "it is a private or a shared key"],
    ["a private EC key", privateJwk(keys.p256), "it is a private or a shared key"],
    ["a private RSA key", privateJwk(keys.rsa), "it is a private or a shared key"],
    ["a private Ed25519 key", privateJwk(keys.ed25519), "it is a private or a shared key"],
    ["a key with a private member that is null", { ...keys.p256.jwk, d: null }, "it is a private or a shared key"],
    ["an encryption key", { ...keys.rsa.jwk, use: "enc" }, "its use is another one"],
    ["a SPIFFE key in a plain set", { ...keys.p256.jwk, use: "jwt-svid" }, "its use is another one"],
    ["a key for signing alone", { ...keys.p256.jwk, key_ops: ["sign"] }, "its key_ops do not have verify"],
    ["RSA of 1024 bits", rsa(1024), "its RSA modulus is not of 2048 to 8192 bits"],
    ["RSA with exponent 3", rsa(2048, 3), "its RSA exponent is not an odd one of at least 65537"],
    ["RSA with exponent 1", { ...keys.rsa.jwk, e: "AQ" }, "its RSA exponent is not an odd one of at least 65537"],
    [
      "RSA with an even exponent",
      { ...keys.rsa.jwk, e: "AQAC" },
      "its RSA exponent is not an odd one of at least 65537",
    ],
    [
      "RSA with a modulus of 65 KB",
      { ...keys.rsa.jwk, n: "_".repeat(22_000) },
      "its RSA modulus is not of 2048 to 8192 bits",
    ],
    ["a point off the curve", { ...keys.p256.jwk, y: keys.p256.jwk.x }, "it is not a valid public key"],
    ["a point of another curve", { ...keys.p384.jwk, crv: "P-256" }, "it is not a valid public key"],
    ["secp256k1", { ...keys.p256.jwk, crv: "secp256k1" }, "its type or curve is unknown"],
    ["X25519", { ...keys.ed25519.jwk, crv: "X25519" }, "its type or curve is unknown"],
    ["an unknown type", { kty: "AKP", alg: "ML-DSA-44", pub: "AA" }, "its type or curve is unknown"],
    ["a missing coordinate", { ...keys.p256.jwk, y: undefined }, "a member of its key type is missing"],
    ["a coordinate in standard base64", { ...keys.p256.jwk, y: "+/==" }, "a member of its key type is missing"],
    ["an alg of another type", { ...keys.p256.jwk, alg: "RS256" }, "its alg does not fit its type"],
    ["alg HS256 on a public key", { ...keys.rsa.jwk, alg: "HS256" }, "its alg does not fit its type"],
    ["alg none", { ...keys.rsa.jwk, alg: "none" }, "its alg does not fit its type"],
    ["a kid that is a number", { ...keys.p256.jwk, kid: 7 }, "it is not a JWK"],
    ["a text", "key", "it is not a JWK"],
    ["null", null, "it is not a JWK"],
  ])("%s", async (_name, jwk, why) => {
    const set = await importKeySet({ keys: [jwk, keys.p384.jwk] }, "sig", signatureAlgorithms);
    expect(set.leftOut).toEqual([`key 0: ${why}`]);
    expect(set.keys.map(({ kid }) => kid)).toEqual(["p384"]);
  });

  test("an empty set is a set that verifies nothing", async () => {
    const set = await importKeySet({ keys: [] }, "jwt-svid", signatureAlgorithms);
    expect(findIn(set, undefined, "ES256")).toEqual([]);
  });

  test.each([null, [], {}, "keys", { keys: {} }, { keys: null }])("%j is not a key set", async (document) => {
    await expect(importKeySet(document, "sig", signatureAlgorithms)).rejects.toBeInstanceOf(KeySetError);
  });

  test("more than 20 usable keys are refused; other keys do not count", async () => {
    const many = (count: number) => Array.from({ length: count }, (_, i) => ({ ...keys.p256.jwk, kid: `k${i}` }));
    await expect(importKeySet({ keys: many(21) }, "sig", ["ES256"])).rejects.toBeInstanceOf(KeySetError);
    const other = { ...keys.p256.jwk, use: "enc" };
    await expect(importKeySet({ keys: [...many(20), other, other] }, "sig", ["ES256"])).resolves.toMatchObject({
      keys: { length: 20 },
    });
  });
});

describe("a key verifies the algorithms of its type, of its own alg, and of the source's list, and no other", () => {
  test.each<[name: string, kid: string, algorithms: string[]]>([
    ["P-256", "p256", ["ES256"]],
    ["P-384", "p384", ["ES384"]],
    ["P-521", "p521", ["ES512"]],
    ["Ed25519, by both of its names", "ed25519", ["Ed25519", "EdDSA"]],
    ["RSA", "rsa", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]],
    ["RSA that says PS256", "ps256", ["PS256"]],
  ])("%s", async (_name, kid, algorithms) => {
    const set = await importKeySet(jwks, "sig", signatureAlgorithms);
    expect(signatureAlgorithms.filter((algorithm) => findIn(set, kid, algorithm).length > 0)).toEqual(algorithms);
  });

  test("what the source does not list is not even imported", async () => {
    const set = await importKeySet(jwks, "sig", ["PS256"]);
    expect(set.keys.flatMap((key) => [...key.byAlgorithm.keys()])).toEqual(["PS256", "PS256"]);
  });

  test("a key that says EdDSA verifies what says Ed25519, and the other way round (RFC 9864)", async () => {
    for (const alg of ["EdDSA", "Ed25519"]) {
      const set = await importKeySet({ keys: [{ ...keys.ed25519.jwk, alg }] }, "sig", signatureAlgorithms);
      expect([findIn(set, "ed25519", "EdDSA").length, findIn(set, "ed25519", "Ed25519").length]).toEqual([1, 1]);
    }
  });

  test("every key is a public CryptoKey that can do nothing but verify", async () => {
    const set = await importKeySet(jwks, "sig", signatureAlgorithms);
    const all = set.keys.flatMap((key) => [...key.byAlgorithm.values()]);
    expect(all.length).toBeGreaterThan(10);
    for (const key of all) expect([key.type, ...key.usages]).toEqual(["public", "verify"]);
  });

  test("kids that are members of Object.prototype find nothing", async () => {
    const set = await importKeySet(jwks, "sig", signatureAlgorithms);
    for (const kid of ["__proto__", "constructor", "toString", ""]) expect(findIn(set, kid, "ES256")).toEqual([]);
  });
});

describe("a SPIFFE bundle", () => {
  test("gives its jwt-svid keys alone, its sequence and its refresh hint", async () => {
    const document = {
      keys: [
        ...bundle(keys.p256).keys,
        { ...keys.p384.jwk, use: "x509-svid" },
        { ...keys.rsa.jwk, use: "sig" },
        keys.p521.jwk,
        { ...keys.rsa.jwk, use: "wit-svid" },
        { ...keys.rsa.jwk, use: "jwt-svid", kid: undefined },
      ],
      spiffe_sequence: 7,
      spiffe_refresh_hint: 60,
    };
    const set = await importKeySet(document, "jwt-svid", signatureAlgorithms);
    expect(set.keys.map(({ kid }) => kid)).toEqual(["p256"]);
    expect(set).toMatchObject({ sequence: 7, refreshHintSeconds: 60 });
    expect(set.leftOut).toHaveLength(5);
  });

  test.each([-1, 0.5, "7", null, 2 ** 53, true])(
    "a sequence of %j is refused: it could not be compared",
    async (sequence) => {
      await expect(importKeySet({ keys: [], spiffe_sequence: sequence }, "jwt-svid", ["ES256"])).rejects.toBeInstanceOf(
        KeySetError,
      );
    },
  );

  test.each([0, -1, "60", null])("a refresh hint of %j is none", async (hint) => {
    const set = await importKeySet({ keys: [], spiffe_refresh_hint: hint }, "jwt-svid", ["ES256"]);
    expect(set.refreshHintSeconds).toBeUndefined();
  });
});
