import { createSign, type KeyObject } from "node:crypto";
import type { RefusalCode } from "../../src/identity/refusal.ts";
import {
  audience,
  b64,
  goodClaims,
  hmacToken,
  issuer,
  keys,
  nowSeconds,
  privateJwk,
  rawToken,
  signText,
  type TestKey,
  token,
} from "./fixtures.ts";

// reliability M1: the malicious JOSE corpus. Each case is refused with a stable code, quickly, without a key being
// asked for where the token itself is wrong, and with a detail that repeats nothing of the token.

/** A token, and the code that it is refused with. */
export type Case = [name: string, compact: string, code: RefusalCode];

const header = (changes: object = {}): string => JSON.stringify({ alg: "ES256", kid: "p256", typ: "JWT", ...changes });
const claims = (changes: object = {}): string => JSON.stringify(goodClaims(changes));
const withHeader = (changes: object): string => rawToken(header(changes), claims());
const unsigned = (head: object, signature = "AA"): string =>
  `${b64(JSON.stringify(head))}.${b64(claims())}.${signature}`;
const [goodHeader = "", goodPayload = "", goodSignature = ""] = token().split(".");
const input = `${goodHeader}.${goodPayload}`;
const signatureOf = (bytes: Buffer): string => `${input}.${b64(bytes)}`;
const good = Buffer.from(goodSignature, "base64url");
const pem = (key: KeyObject): string => key.export({ type: "spki", format: "pem" }).toString();
const der = (key: KeyObject): Buffer => key.export({ type: "spki", format: "der" });
const hmac = (alg: string, key: TestKey, secret: string | Buffer): string =>
  hmacToken({ alg, kid: key.kid }, goodClaims(), secret);

const none: Case[] = [
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

const confusion: Case[] = [
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
  ["an HMAC that says it is ES256", rawHmac("ES256", keys.p256), "token_signature_invalid"],
  ["an HMAC that says it is RS256", rawHmac("RS256", keys.rsa), "token_signature_invalid"],
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
function rawHmac(alg: string, key: TestKey): string {
  const text = `${b64(JSON.stringify({ alg, kid: key.kid }))}.${b64(claims())}`;
  return `${text}.${hmacToken({ alg: "HS256" }, {}, pem(key.publicKey)).split(".")[2]}`;
}

const order = Buffer.from("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", "hex");
const one = Buffer.concat([Buffer.alloc(31), Buffer.from([1])]);
const signatures: Case[] = [
  ["of another key of the same kind", token({}, { kid: "p256" }, keys.otherP256), "token_signature_invalid"],
  ["of zeros (CVE-2022-21449)", signatureOf(Buffer.alloc(64)), "token_signature_invalid"],
  ["r = 0", signatureOf(Buffer.concat([Buffer.alloc(32), good.subarray(32)])), "token_signature_invalid"],
  ["s = 0", signatureOf(Buffer.concat([good.subarray(0, 32), Buffer.alloc(32)])), "token_signature_invalid"],
  ["r = n", signatureOf(Buffer.concat([order, good.subarray(32)])), "token_signature_invalid"],
  ["r = n, s = n", signatureOf(Buffer.concat([order, order])), "token_signature_invalid"],
  ["r = 1, s = 1", signatureOf(Buffer.concat([one, one])), "token_signature_invalid"],
  ["of 255s", signatureOf(Buffer.alloc(64, 0xff)), "token_signature_invalid"],
  [
    "halves exchanged",
    signatureOf(Buffer.concat([good.subarray(32), good.subarray(0, 32)])),
    "token_signature_invalid",
  ],
  ["one byte short", signatureOf(good.subarray(0, 63)), "token_signature_invalid"],
  ["one byte long", signatureOf(Buffer.concat([good, Buffer.from([0])])), "token_signature_invalid"],
  ["one byte", signatureOf(Buffer.from([1])), "token_signature_invalid"],
  ["in DER", signatureOf(createSign("sha256").update(input).sign(keys.p256.privateKey)), "token_signature_invalid"],
  ["twice", signatureOf(Buffer.concat([good, good])), "token_signature_invalid"],
  [
    "of the payload alone",
    signatureOf(signText("ES256", keys.p256.privateKey, goodPayload)),
    "token_signature_invalid",
  ],
  ["of the decoded payload", signatureOf(signText("ES256", keys.p256.privateKey, claims())), "token_signature_invalid"],
  [
    "over another header",
    `${b64(header({ typ: undefined }))}.${goodPayload}.${goodSignature}`,
    "token_signature_invalid",
  ],
  [
    "over another payload",
    `${goodHeader}.${b64(claims({ sub: "admin" }))}.${goodSignature}`,
    "token_signature_invalid",
  ],
];

const kids: Case[] = [
  ...Object.entries({
    "a path": "../../../../dev/null",
    "an absolute path": "/etc/passwd",
    SQL: "x' or '1'='1",
    "a UNION": "x' union select 'k' --",
    "a URL": "https://evil.example/key",
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
const carried: Case[] = [
  ["jwk with the attacker's key", token({}, { jwk: attacker.jwk }, attacker), "token_header_not_allowed"],
  [
    "jwk with a known kid",
    token({}, { kid: "p256", jwk: { ...attacker.jwk, kid: "p256" } }, attacker),
    "token_header_not_allowed",
  ],
  ["jwk with a private key", token({}, { jwk: privateJwk(attacker) }, attacker), "token_header_not_allowed"],
  ["jwk null", withHeader({ jwk: null }), "token_header_not_allowed"],
  ["a good token that has jwk besides", withHeader({ jwk: keys.p256.jwk }), "token_header_not_allowed"],
  ["jku of the attacker", withHeader({ jku: "https://evil.example/jwks.json" }), "token_header_not_allowed"],
  ["jku of the issuer itself", withHeader({ jku: `${issuer}/jwks.json` }), "token_header_not_allowed"],
  ["jku at a metadata service", withHeader({ jku: "http://169.254.169.254/latest" }), "token_header_not_allowed"],
  ["jku of a file", withHeader({ jku: "file:///etc/passwd" }), "token_header_not_allowed"],
  ["x5u", withHeader({ x5u: "https://evil.example/c.pem" }), "token_header_not_allowed"],
  ["x5c", withHeader({ x5c: ["MIIB"] }), "token_header_not_allowed"],
  ["an empty x5c", withHeader({ x5c: [] }), "token_header_not_allowed"],
];

const extensions: Case[] = [
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
    JSON.stringify({ protected: goodHeader, payload: goodPayload, signature: goodSignature }),
    "token_malformed",
  ],
  ["a nested JWT", rawToken(header({ cty: "JWT" }), token()), "token_malformed"],
];

const ms = nowSeconds * 1000;
const times: Case[] = [
  ["no exp", token({ exp: undefined }), "token_claim_missing"],
  ["exp null", token({ exp: null }), "token_claim_invalid"],
  ["exp as text", token({ exp: String(nowSeconds + 60) }), "token_claim_invalid"],
  ["exp now", token({ exp: nowSeconds }), "token_expired"],
  ["exp a second ago", token({ exp: nowSeconds - 1 }), "token_expired"],
  ["exp 0", token({ exp: 0 }), "token_expired"],
  ["exp negative", token({ exp: -1 }), "token_claim_invalid"],
  ["exp with a fraction", token({ exp: nowSeconds + 0.5 }), "token_claim_invalid"],
  ["exp 1e308", rawToken(header(), claims().replace(/"exp":\d+/, '"exp":1e308')), "token_claim_invalid"],
  ["exp 1e999", rawToken(header(), claims().replace(/"exp":\d+/, '"exp":1e999')), "token_malformed"],
  ["exp 2^53", token({ exp: 2 ** 53 }), "token_claim_invalid"],
  ["exp in milliseconds", token({ exp: ms + 300_000 }), "token_lifetime_too_long"],
  ["exp in a year", token({ exp: nowSeconds + 31_536_000 }), "token_lifetime_too_long"],
  ["exp a second beyond a day", token({ exp: nowSeconds + 86_411 }), "token_lifetime_too_long"],
  ["exp as an array", token({ exp: [nowSeconds + 60] }), "token_claim_invalid"],
  ["exp true", token({ exp: true }), "token_claim_invalid"],
  ["exp before iat", token({ exp: nowSeconds + 2, iat: nowSeconds + 5 }), "token_claim_invalid"],
  ["exp before nbf", token({ exp: nowSeconds + 2, nbf: nowSeconds + 5 }), "token_claim_invalid"],
  ["no iat", token({ iat: undefined }), "token_claim_missing"],
  ["iat as text", token({ iat: "now" }), "token_claim_invalid"],
  ["iat negative", token({ iat: -1 }), "token_claim_invalid"],
  ["iat eleven seconds ahead", token({ iat: nowSeconds + 11 }), "token_not_yet_valid"],
  ["iat in milliseconds", token({ iat: ms }), "token_not_yet_valid"],
  ["iat an hour and a second ago", token({ iat: nowSeconds - 3601 }), "token_too_old"],
  ["iat 0", token({ iat: 0 }), "token_too_old"],
  ["nbf eleven seconds ahead", token({ nbf: nowSeconds + 11 }), "token_not_yet_valid"],
  ["nbf as text", token({ nbf: "0" }), "token_claim_invalid"],
  ["nbf null", token({ nbf: null }), "token_claim_invalid"],
  ["nbf with a fraction", token({ nbf: nowSeconds - 0.5 }), "token_claim_invalid"],
];

const parties: Case[] = [
  ["no iss", token({ iss: undefined }), "token_claim_missing"],
  ["iss null", token({ iss: null }), "token_issuer_unknown"],
  ["iss as an array", token({ iss: [issuer] }), "token_issuer_unknown"],
  ["iss with a slash more", token({ iss: `${issuer}/` }), "token_issuer_unknown"],
  ["iss in another case", token({ iss: issuer.toUpperCase() }), "token_issuer_unknown"],
  ["iss over http", token({ iss: issuer.replace("https", "http") }), "token_issuer_unknown"],
  ["iss with the port spelled out", token({ iss: `${issuer}:443` }), "token_issuer_unknown"],
  ["iss as a prefix of another host", token({ iss: `${issuer}.evil.example` }), "token_issuer_unknown"],
  ["iss with user info", token({ iss: issuer.replace("//", "//x@") }), "token_issuer_unknown"],
  ["iss with a query", token({ iss: `${issuer}?x` }), "token_issuer_unknown"],
  ["iss with a homoglyph", token({ iss: issuer.replace("e", "е") }), "token_issuer_unknown"],
  ["iss with a zero-width space", token({ iss: `${issuer}\u200b` }), "token_issuer_unknown"],
  ["no aud", token({ aud: undefined }), "token_claim_missing"],
  ["aud null", token({ aud: null }), "token_claim_invalid"],
  ["aud empty", token({ aud: "" }), "token_claim_invalid"],
  ["aud an empty array", token({ aud: [] }), "token_claim_invalid"],
  ["aud another one", token({ aud: "https://other.example" }), "token_audience_mismatch"],
  ["aud of another tenant (T6)", token({ aud: audience.replace("acme", "globex") }), "token_audience_mismatch"],
  ["aud with a slash more", token({ aud: `${audience}/` }), "token_audience_mismatch"],
  ["aud in another case", token({ aud: audience.toUpperCase() }), "token_audience_mismatch"],
  ["aud the token endpoint (T-3.2)", token({ aud: `${audience}/oauth/token` }), "token_audience_mismatch"],
  ["aud the prefix of ours", token({ aud: "https://mayfly.example" }), "token_audience_mismatch"],
  ["aud ours and another (T-3.1)", token({ aud: [audience, "https://rs.example"] }), "token_audience_multiple"],
  ["aud another and ours", token({ aud: ["https://rs.example", audience] }), "token_audience_multiple"],
  ["aud ours twice", token({ aud: [audience, audience] }), "token_audience_multiple"],
  ["aud an array in an array", token({ aud: [[audience]] }), "token_claim_invalid"],
  ["aud an object", token({ aud: { [audience]: true } }), "token_claim_invalid"],
  ["aud an array-like object", token({ aud: { 0: audience, length: 1 } }), "token_claim_invalid"],
  ["aud joined by spaces", token({ aud: `${audience} https://rs.example` }), "token_audience_mismatch"],
  ["no sub", token({ sub: undefined }), "token_claim_missing"],
  ["sub empty", token({ sub: "" }), "token_claim_invalid"],
  ["sub a number", token({ sub: 1 }), "token_claim_invalid"],
  ["sub with a line break", token({ sub: "a\nroot" }), "token_claim_invalid"],
  ["sub of 3 KiB", token({ sub: "s".repeat(3000) }), "token_claim_invalid"],
];

const kinds: Case[] = [
  ...[
    "at+jwt",
    "AT+JWT",
    "application/at+jwt",
    "dpop+jwt",
    "secevent+jwt",
    "logout+jwt",
    "statuslist+jwt",
    "wit+jwt",
    "wpt+jwt",
    "txntoken+jwt",
    "oauth-id-jag+jwt",
    "token-introspection+jwt",
    "oauth-authz-req+jwt",
    "entity-statement+jwt",
    "kb+jwt",
  ].map((typ): Case => [`typ ${typ}`, withHeader({ typ }), "token_kind_confused"]),
  ...["JOSE", "JOSE+JSON", "JWT ", "jwt;x", "id_token+jwt", "foo", "application/application/jwt", "__proto__"].map(
    (typ): Case => [`typ ${typ}`, withHeader({ typ }), "token_typ_not_allowed"],
  ),
  ["typ empty", withHeader({ typ: "" }), "token_typ_not_allowed"],
  ["typ as an array", withHeader({ typ: ["JWT"] }), "token_typ_not_allowed"],
  ["typ null", withHeader({ typ: null }), "token_typ_not_allowed"],
  ...Object.entries({
    htm: "POST",
    htu: audience,
    wth: "x",
    events: { "http://schemas.openid.net/event/backchannel-logout": {} },
    status_list: { bits: 1 },
    token_introspection: { active: true },
    tctx: {},
    rctx: {},
    authorization_details: [{}],
    vct: "x",
    _sd: [],
  }).map(([claim, value]): Case => [`a claim ${claim}`, token({ [claim]: value }), "token_kind_confused"]),
  ...Object.entries({
    "an actor": { act: { sub: "agent" } },
    "a chain of actors": { act: { sub: "a", act: { sub: "b" } } },
    "act null": { act: null },
    "act as text": { act: "admin" },
    "act as an array": { act: [{ sub: "a" }] },
    "an empty act": { act: {} },
    may_act: { may_act: { sub: "agent" } },
    "may_act null": { may_act: null },
    "may_act as an array": { may_act: [] },
    "act and may_act": { act: { sub: "a" }, may_act: { sub: "a" } },
    "an act that is ourselves": { act: { iss: audience, sub: "mayfly" } },
  }).map(([name, changes]): Case => [`delegation forged: ${name}`, token(changes), "token_kind_confused"]),
];

const padded = `${goodHeader}=.${goodPayload}.${goodSignature}`;
/** Sets an unused bit of the last character of a part whose length leaves some. */
function loosened(part: string): string {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  return part.slice(0, -1) + alphabet.charAt(alphabet.indexOf(part.slice(-1)) + 1);
}
const spellings: Case[] = [
  ["padding", padded, "token_malformed"],
  ["loose trailing bits in the signature", `${input}.${loosened(goodSignature)}`, "token_malformed"],
  ["standard base64 in the signature", `${input}.${"+/".repeat(43)}`, "token_malformed"],
  ["a space before", ` ${token()}`, "token_malformed"],
  ["a line break after", `${token()}\n`, "token_malformed"],
  ["a line break inside", `${goodHeader}.\n${goodPayload}.${goodSignature}`, "token_malformed"],
  ["a trailing dot", `${token()}.`, "token_malformed"],
  ["a leading dot", `.${token()}`, "token_malformed"],
  ["NUL after", `${token()}\0`, "token_malformed"],
  ["full-width letters", token().replaceAll("e", "ｅ"), "token_malformed"],
  ["percent-encoded dots", token().replaceAll(".", "%2E"), "token_malformed"],
  ["Bearer in front", `Bearer ${token()}`, "token_malformed"],
  ["two tokens", `${token()},${token()}`, "token_malformed"],
  ["an impossible length of a part", `${input}.${goodSignature.slice(0, 85)}`, "token_malformed"],
];

const notUtf8 = Buffer.concat([Buffer.from('{"iss":"'), Buffer.from([0xff, 0xfe]), Buffer.from('"}')]);
const json: Case[] = [
  ["alg twice", rawToken('{"alg":"none","alg":"ES256","kid":"p256"}', claims()), "token_malformed"],
  ["kid twice", rawToken('{"alg":"ES256","kid":"other","kid":"p256"}', claims()), "token_malformed"],
  ["aud twice", rawToken(header(), `{"aud":"x",${claims().slice(1)}`), "token_malformed"],
  ["sub twice", rawToken(header(), `${claims().slice(0, -1)},"sub":"admin"}`), "token_malformed"],
  [
    "exp twice, once escaped",
    rawToken(header(), String.raw`{"e\u0078p":9999999999,${claims().slice(1)}`),
    "token_malformed",
  ],
  ["iss twice, equal", rawToken(header(), `{"iss":"${issuer}",${claims().slice(1)}`), "token_malformed"],
  ["a nested name twice", rawToken(header(), `{"k":{"uid":"a","uid":"b"},${claims().slice(1)}`), "token_malformed"],
  [
    "__proto__ in the payload",
    rawToken(header(), `{"__proto__":{"admin":true},${claims().slice(1)}`),
    "token_malformed",
  ],
  [
    "__proto__ in the header",
    rawToken('{"__proto__":{"alg":"ES256"},"alg":"ES256","kid":"p256"}', claims()),
    "token_malformed",
  ],
  ["constructor in the payload", rawToken(header(), `{"constructor":{},${claims().slice(1)}`), "token_malformed"],
  ["the payload is an array", rawToken(header(), `[${claims()}]`), "token_malformed"],
  ["the payload is null", rawToken(header(), "null"), "token_malformed"],
  ["the payload is text", rawToken(header(), '"sub"'), "token_malformed"],
  ["the header is an array", rawToken('["ES256"]', claims()), "token_malformed"],
  ["the header is null", rawToken("null", claims()), "token_malformed"],
  ["the payload is not JSON", rawToken(header(), "sub=admin"), "token_malformed"],
  ["the payload has a byte order mark", rawToken(header(), `\ufeff${claims()}`), "token_malformed"],
  ["the header has a byte order mark", rawToken(`\ufeff${header()}`, claims()), "token_malformed"],
  ["the payload is not UTF-8", rawToken(header(), notUtf8), "token_malformed"],
  ["the payload is UTF-16", rawToken(header(), Buffer.from(claims(), "utf16le")), "token_malformed"],
  [
    "an overlong slash (invalid UTF-8)",
    rawToken(header(), Buffer.concat([Buffer.from('{"a":"'), Buffer.from([0xc0, 0xaf]), Buffer.from('"}')])),
    "token_malformed",
  ],
  [
    "NUL in a claim",
    rawToken(header(), claims().replace("researcher", String.raw`researcher\u0000`)),
    "token_malformed",
  ],
  [
    "a lone surrogate in a claim",
    rawToken(header(), claims().replace("researcher", String.raw`\ud800`)),
    "token_malformed",
  ],
  [
    "eleven levels",
    rawToken(header(), `{"a":${"[".repeat(10)}${"]".repeat(10)},${claims().slice(1)}`),
    "token_malformed",
  ],
  ["two objects", rawToken(header(), `${claims()}${claims()}`), "token_malformed"],
];

const sizes: Case[] = [
  ["empty", "", "token_malformed"],
  ["two dots", "..", "token_malformed"],
  ["one character over the limit", "a".repeat(8193), "token_malformed"],
  ["10 MB", "a".repeat(10_000_000), "token_malformed"],
  ["10 MB of dots", ".".repeat(10_000_000), "token_malformed"],
  ["a good token with a big claim", token({ big: "x".repeat(8000) }), "token_malformed"],
  ["600 claims", token(Object.fromEntries(Array.from({ length: 600 }, (_, i) => [`c${i}`, 0]))), "token_malformed"],
  ["600 groups", token({ groups: Array.from({ length: 600 }, () => 1) }), "token_malformed"],
];

/** reliability M1 by class. Every token is a good one but for the flaw that its name says. */
export const corpus: Readonly<Record<string, readonly Case[]>> = {
  none,
  confusion,
  signatures,
  kids,
  carried,
  extensions,
  times,
  parties,
  kinds,
  spellings,
  json,
  sizes,
};
