import { createSign, type KeyObject } from "node:crypto";
import { b64, hmacToken, keys, privateJwk, rawToken, signText, type TestKey } from "./fixtures.ts";
import type { Case, CaseClass } from "./forge.ts";

// Of the malicious JOSE corpus: algorithms, keys, signatures and header extensions.

const pem = (key: KeyObject): string => key.export({ type: "spki", format: "pem" }).toString();
const der = (key: KeyObject): Buffer => key.export({ type: "spki", format: "der" });

export const none: CaseClass = ({ unsigned, claims }) => [
  ...["none", "None", "NONE", "nOnE", "none ", ""].map(
    (alg): Case => [`alg ${JSON.stringify(alg)}`, unsigned({ alg }), "token_alg_not_allowed"],
  ),
  ["alg none with an empty signature", unsigned({ alg: "none" }, ""), "token_malformed"],
  ["alg none without the last dot", unsigned({ alg: "none" }).split(".").slice(0, 2).join("."), "token_malformed"],
  ["no alg", unsigned({ kid: "p256" }), "token_alg_not_allowed"],
  ["alg null", unsigned({ alg: null }), "token_alg_not_allowed"],
  ["alg as an array with a good one", unsigned({ alg: ["ES256"] }), "token_alg_not_allowed"],
  ["alg as an object", unsigned({ alg: { toString: "ES256" } }), "token_alg_not_allowed"],
  ["alg none with a good signature", rawToken('{"alg":"none","kid":"p256"}', claims()), "token_alg_not_allowed"],
];

export const confusion: CaseClass = ({ token, withHeader, hmac, claims }) => [
  ["HS256 with the RSA key's PEM", hmac("HS256", keys.rsa, pem(keys.rsa.publicKey)), "token_alg_not_allowed"],
  [
    "HS256 with the PEM without its last line break",
    hmac("HS256", keys.rsa, pem(keys.rsa.publicKey).trim()),
    "token_alg_not_allowed",
  ],
  ["HS256 with the DER", hmac("HS256", keys.rsa, der(keys.rsa.publicKey)), "token_alg_not_allowed"],
  [
    "HS256 with the modulus",
    hmac("HS256", keys.rsa, Buffer.from(String(keys.rsa.jwk.n), "base64url")),
    "token_alg_not_allowed",
  ],
  ["HS256 with the JWK text", hmac("HS256", keys.rsa, JSON.stringify(keys.rsa.jwk)), "token_alg_not_allowed"],
  ["HS256 with the EC key's PEM", hmac("HS256", keys.p256, pem(keys.p256.publicKey)), "token_alg_not_allowed"],
  ["HS384 with the PEM", hmac("HS384", keys.rsa, pem(keys.rsa.publicKey)), "token_alg_not_allowed"],
  ["HS512 with the PEM", hmac("HS512", keys.rsa, pem(keys.rsa.publicKey)), "token_alg_not_allowed"],
  ["HS256 with an empty secret", hmac("HS256", keys.rsa, ""), "token_alg_not_allowed"],
  ["hs256 in lower case", hmac("hs256", keys.rsa, pem(keys.rsa.publicKey)), "token_alg_not_allowed"],
  ["an HMAC that says it is ES256", rawHmac("ES256", keys.p256, claims()), "token_signature_invalid"],
  ["an HMAC that says it is RS256", rawHmac("RS256", keys.rsa, claims()), "token_signature_invalid"],
  ["RS256 at the EC key's kid", token({}, { alg: "RS256", kid: "p256" }, keys.rsa, "RS256"), "token_key_unknown"],
  ["ES256 at the RSA key's kid", token({}, { kid: "rsa" }), "token_key_unknown"],
  ["ES384 at the P-256 key's kid", token({}, { alg: "ES384", kid: "p256" }, keys.p384, "ES384"), "token_key_unknown"],
  ["EdDSA at the EC key's kid", token({}, { alg: "EdDSA", kid: "p256" }, keys.ed25519, "EdDSA"), "token_key_unknown"],
  ["RS256 at a key that is for PS256", token({}, { alg: "RS256" }, keys.ps256, "RS256"), "token_key_unknown"],
  ["a PS256 signature that says RS256", token({}, { alg: "RS256" }, keys.rsa, "PS256"), "token_signature_invalid"],
  ["an RS256 signature that says PS256", token({}, { alg: "PS256" }, keys.rsa, "RS256"), "token_signature_invalid"],
  ["an RS256 signature that says RS512", token({}, { alg: "RS512" }, keys.rsa, "RS256"), "token_signature_invalid"],
  ["es256 in lower case", withHeader({ alg: "es256" }), "token_alg_not_allowed"],
  ["ES256 with a space", withHeader({ alg: "ES256 " }), "token_alg_not_allowed"],
  ["ES256K", withHeader({ alg: "ES256K" }), "token_alg_not_allowed"],
  ["ML-DSA-44", withHeader({ alg: "ML-DSA-44" }), "token_alg_not_allowed"],
  ["alg __proto__", withHeader({ alg: "__proto__" }), "token_alg_not_allowed"],
  ["alg toString", withHeader({ alg: "toString" }), "token_alg_not_allowed"],
];

/** Says an asymmetric algorithm and carries an HMAC under the public key. */
function rawHmac(alg: string, key: TestKey, claims: string): string {
  const text = `${b64(JSON.stringify({ alg, kid: key.kid }))}.${b64(claims)}`;
  return `${text}.${hmacToken({ alg: "HS256" }, {}, pem(key.publicKey)).split(".")[2]}`;
}

const order = Buffer.from("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", "hex");
const one = Buffer.concat([Buffer.alloc(31), Buffer.from([1])]);

export const signatures: CaseClass = ({ token, good, header, claims }) => {
  const signatureOf = (bytes: Buffer): string => `${good.input}.${b64(bytes)}`;
  const bytes = Buffer.from(good.signature, "base64url");
  return [
    ["of another key of the same kind", token({}, { kid: "p256" }, keys.otherP256), "token_signature_invalid"],
    ["of zeros (CVE-2022-21449)", signatureOf(Buffer.alloc(64)), "token_signature_invalid"],
    ["r = 0", signatureOf(Buffer.concat([Buffer.alloc(32), bytes.subarray(32)])), "token_signature_invalid"],
    ["s = 0", signatureOf(Buffer.concat([bytes.subarray(0, 32), Buffer.alloc(32)])), "token_signature_invalid"],
    ["r = n", signatureOf(Buffer.concat([order, bytes.subarray(32)])), "token_signature_invalid"],
    ["r = n, s = n", signatureOf(Buffer.concat([order, order])), "token_signature_invalid"],
    ["r = 1, s = 1", signatureOf(Buffer.concat([one, one])), "token_signature_invalid"],
    ["of 255s", signatureOf(Buffer.alloc(64, 0xff)), "token_signature_invalid"],
    [
      "halves exchanged",
      signatureOf(Buffer.concat([bytes.subarray(32), bytes.subarray(0, 32)])),
      "token_signature_invalid",
    ],
    ["one byte short", signatureOf(bytes.subarray(0, 63)), "token_signature_invalid"],
    ["one byte long", signatureOf(Buffer.concat([bytes, Buffer.from([0])])), "token_signature_invalid"],
    ["one byte", signatureOf(Buffer.from([1])), "token_signature_invalid"],
    [
      "in DER",
      signatureOf(createSign("sha256").update(good.input).sign(keys.p256.privateKey)),
      "token_signature_invalid",
    ],
    ["twice", signatureOf(Buffer.concat([bytes, bytes])), "token_signature_invalid"],
    [
      "of the payload alone",
      signatureOf(signText("ES256", keys.p256.privateKey, good.payload)),
      "token_signature_invalid",
    ],
    [
      "of the decoded payload",
      signatureOf(signText("ES256", keys.p256.privateKey, claims())),
      "token_signature_invalid",
    ],
    [
      "over another header",
      `${b64(header({ typ: undefined }))}.${good.payload}.${good.signature}`,
      "token_signature_invalid",
    ],
    [
      "over another payload",
      `${good.header}.${b64(claims({ sub: "admin" }))}.${good.signature}`,
      "token_signature_invalid",
    ],
  ];
};

export const kids: CaseClass = ({ token, withHeader, claims, evil }) => [
  ...Object.entries({
    "a path": "../../../../dev/null",
    "an absolute path": "/etc/passwd",
    SQL: "x' or '1'='1",
    "a UNION": "x' union select 'k' --",
    "a URL": `${evil}/key`,
    "a shell": "p256;id",
    __proto__: "__proto__",
    constructor: "constructor",
    "another case": "P256",
    "a space": "p256 ",
    "a homoglyph": "р256",
    "a format string": "%s%n",
    "the other key's": "other",
  }).map(([name, kid]): Case => [`kid: ${name}`, withHeader({ kid }), "token_key_unknown"]),
  ["kid with NUL", rawToken(String.raw`{"alg":"ES256","kid":"p256\u0000"}`, claims()), "token_malformed"],
  ["kid with a line break", withHeader({ kid: "p256\r\nx" }), "token_header_not_allowed"],
  ["kid of 5 KiB", withHeader({ kid: "k".repeat(5120) }), "token_header_not_allowed"],
  ["kid of 10 KiB", withHeader({ kid: "k".repeat(10_240) }), "token_malformed"],
  ["an empty kid", withHeader({ kid: "" }), "token_header_not_allowed"],
  ["kid as a number", withHeader({ kid: 1 }), "token_header_not_allowed"],
  ["kid null", withHeader({ kid: null }), "token_header_not_allowed"],
  ["kid as an array", withHeader({ kid: ["p256"] }), "token_header_not_allowed"],
  ["kid as an object", withHeader({ kid: { p256: 1 } }), "token_header_not_allowed"],
  [
    "no kid, signed by a key that is for another algorithm",
    token({}, { alg: "RS256", kid: undefined }, keys.ps256, "RS256"),
    "token_signature_invalid",
  ],
];

const attacker = keys.otherP256;

export const carried: CaseClass = ({ token, withHeader, issuer, evil }) => [
  ["jwk with the attacker's key", token({}, { jwk: attacker.jwk }, attacker), "token_header_not_allowed"],
  [
    "jwk with a known kid",
    token({}, { kid: "p256", jwk: { ...attacker.jwk, kid: "p256" } }, attacker),
    "token_header_not_allowed",
  ],
  ["jwk with a private key", token({}, { jwk: privateJwk(attacker) }, attacker), "token_header_not_allowed"],
  ["jwk null", withHeader({ jwk: null }), "token_header_not_allowed"],
  ["a good token that has jwk besides", withHeader({ jwk: keys.p256.jwk }), "token_header_not_allowed"],
  ["jku of the attacker", withHeader({ jku: `${evil}/jwks.json` }), "token_header_not_allowed"],
  ["jku, signed by the attacker", token({}, { jku: `${evil}/jwks.json` }, attacker), "token_header_not_allowed"],
  ["jku beside a jwk", withHeader({ jku: `${evil}/jwks.json`, jwk: attacker.jwk }), "token_header_not_allowed"],
  ["x5u, signed by the attacker", token({}, { x5u: `${evil}/c.pem` }, attacker), "token_header_not_allowed"],
  ["jku of the issuer itself", withHeader({ jku: `${issuer}/jwks.json` }), "token_header_not_allowed"],
  ["jku at a metadata service", withHeader({ jku: "http://169.254.169.254/latest" }), "token_header_not_allowed"],
  ["jku of a file", withHeader({ jku: "file:///etc/passwd" }), "token_header_not_allowed"],
  ["x5u", withHeader({ x5u: `${evil}/c.pem` }), "token_header_not_allowed"],
  ["x5c", withHeader({ x5c: ["MIIB"] }), "token_header_not_allowed"],
  ["an empty x5c", withHeader({ x5c: [] }), "token_header_not_allowed"],
];

export const extensions: CaseClass = ({ token, header, withHeader, unsigned, good, nowSeconds }) => [
  ["crit empty", withHeader({ crit: [] }), "token_crit_unsupported"],
  ["crit null", withHeader({ crit: null }), "token_crit_unsupported"],
  ["crit with an unknown name", withHeader({ crit: ["x"], x: 1 }), "token_crit_unsupported"],
  ["crit with exp", withHeader({ crit: ["exp"], exp: nowSeconds + 9 }), "token_crit_unsupported"],
  ["crit with b64", withHeader({ crit: ["b64"], b64: false }), "token_crit_unsupported"],
  ["crit as text", withHeader({ crit: "b64" }), "token_crit_unsupported"],
  ["b64 false without crit", withHeader({ b64: false }), "token_header_not_allowed"],
  ["b64 true", withHeader({ b64: true }), "token_header_not_allowed"],
  ["zip DEF", withHeader({ zip: "DEF" }), "token_header_not_allowed"],
  ["a JWE of five parts", `${b64('{"alg":"dir","enc":"A256GCM"}')}..AAAA.AAAA.AAAA`, "token_malformed"],
  [
    "a PBES2 JWE with a huge p2c",
    `${b64('{"alg":"PBES2-HS512+A256KW","enc":"A256GCM","p2c":2147483647}')}.AAAA.AAAA.AAAA.AAAA`,
    "token_malformed",
  ],
  ["a JWE header in three parts", unsigned({ alg: "RSA-OAEP", enc: "A256GCM" }), "token_alg_not_allowed"],
  [
    "the JSON serialization",
    JSON.stringify({ protected: good.header, payload: good.payload, signature: good.signature }),
    "token_malformed",
  ],
  ["a nested JWT", rawToken(header({ cty: "JWT" }), token()), "token_malformed"],
];
