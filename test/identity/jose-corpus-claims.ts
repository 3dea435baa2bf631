import { rawToken } from "./fixtures.ts";
import type { Case, CaseClass } from "./forge.ts";

// Of the malicious JOSE corpus: times, parties, kinds, delegation, spellings, JSON and sizes.

export const times: CaseClass = ({ token, claims, header, nowSeconds, slack }) => [
  ["no exp", token({ exp: undefined }), "token_claim_missing"],
  ["exp null", token({ exp: null }), "token_claim_invalid"],
  ["exp as text", token({ exp: String(nowSeconds + 60) }), "token_claim_invalid"],
  ["exp now", token({ exp: nowSeconds - slack }), "token_expired"],
  ["exp a second ago", token({ exp: nowSeconds - 1 - slack }), "token_expired"],
  ["exp 0", token({ exp: 0 }), "token_expired"],
  ["exp negative", token({ exp: -1 }), "token_claim_invalid"],
  ["exp with a fraction", token({ exp: nowSeconds + 0.5 }), "token_claim_invalid"],
  ["exp 1e308", rawToken(header(), claims().replace(/"exp":\d+/, '"exp":1e308')), "token_claim_invalid"],
  ["exp 1e999", rawToken(header(), claims().replace(/"exp":\d+/, '"exp":1e999')), "token_malformed"],
  ["exp 2^53", token({ exp: 2 ** 53 }), "token_claim_invalid"],
  ["exp in milliseconds", token({ exp: (nowSeconds + 300) * 1000 }), "token_lifetime_too_long"],
  ["exp in a year", token({ exp: nowSeconds + 31_536_000 }), "token_lifetime_too_long"],
  ["exp a second beyond a day", token({ exp: nowSeconds + 86_411 + slack }), "token_lifetime_too_long"],
  ["exp as an array", token({ exp: [nowSeconds + 60] }), "token_claim_invalid"],
  ["exp true", token({ exp: true }), "token_claim_invalid"],
  ["exp before iat", token({ exp: nowSeconds + 2 + slack, iat: nowSeconds + 5 + slack }), "token_claim_invalid"],
  ["exp before nbf", token({ exp: nowSeconds + 2 + slack, nbf: nowSeconds + 5 + slack }), "token_claim_invalid"],
  ["no iat", token({ iat: undefined }), "token_claim_missing"],
  ["iat as text", token({ iat: "now" }), "token_claim_invalid"],
  ["iat negative", token({ iat: -1 }), "token_claim_invalid"],
  ["iat eleven seconds ahead", token({ iat: nowSeconds + 11 + slack }), "token_not_yet_valid"],
  ["iat in milliseconds", token({ iat: nowSeconds * 1000 }), "token_not_yet_valid"],
  ["iat an hour and a second ago", token({ iat: nowSeconds - 3601 }), "token_too_old"],
  ["iat 0", token({ iat: 0 }), "token_too_old"],
  ["nbf eleven seconds ahead", token({ nbf: nowSeconds + 11 + slack }), "token_not_yet_valid"],
  ["nbf as text", token({ nbf: "0" }), "token_claim_invalid"],
  ["nbf null", token({ nbf: null }), "token_claim_invalid"],
  ["nbf with a fraction", token({ nbf: nowSeconds - 0.5 }), "token_claim_invalid"],
];

export const parties: CaseClass = ({ token, issuer, audience }) => [
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
  ["aud of another tenant (T6)", token({ aud: audience.replace(/[^/]+$/, "globex") }), "token_audience_mismatch"],
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

export const kinds: CaseClass = ({ token, withHeader, audience }) => [
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
];

export const delegation: CaseClass = ({ token, audience }) =>
  Object.entries({
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
    "an actor's own key": { act: { sub: "a", cnf: { jkt: "x" } } },
    "act false": { act: false },
    "may_act of anybody": { may_act: { sub: "*" } },
    "a chain of nine": {
      act: Array.from({ length: 8 }).reduce<object>((act, _, depth) => ({ sub: `a${depth}`, act }), { sub: "a" }),
    },
    "an act that is ourselves": { act: { iss: audience, sub: "mayfly" } },
  }).map(([name, changes]): Case => [name, token(changes), "token_kind_confused"]);

/** Sets an unused bit of the last character of a part whose length leaves some. */
function loosened(part: string): string {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  return part.slice(0, -1) + alphabet.charAt(alphabet.indexOf(part.slice(-1)) + 1);
}

export const spellings: CaseClass = ({ token, good }) => [
  ["padding", `${good.header}=.${good.payload}.${good.signature}`, "token_malformed"],
  ["loose trailing bits in the signature", `${good.input}.${loosened(good.signature)}`, "token_malformed"],
  ["standard base64 in the signature", `${good.input}.${"+/".repeat(43)}`, "token_malformed"],
  ["a space before", ` ${token()}`, "token_malformed"],
  ["a line break after", `${token()}\n`, "token_malformed"],
  ["a line break inside", `${good.header}.\n${good.payload}.${good.signature}`, "token_malformed"],
  ["a trailing dot", `${token()}.`, "token_malformed"],
  ["a leading dot", `.${token()}`, "token_malformed"],
  ["NUL after", `${token()}\0`, "token_malformed"],
  ["full-width letters", token().replaceAll("e", "ｅ"), "token_malformed"],
  ["percent-encoded dots", token().replaceAll(".", "%2E"), "token_malformed"],
  ["Bearer in front", `Bearer ${token()}`, "token_malformed"],
  ["two tokens", `${token()},${token()}`, "token_malformed"],
  ["an impossible length of a part", `${good.input}.${good.signature.slice(0, 85)}`, "token_malformed"],
];

export const duplicates: CaseClass = ({ header, claims, issuer }) => [
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
  ["typ twice", rawToken('{"alg":"ES256","kid":"p256","typ":"at+jwt","typ":"JWT"}', claims()), "token_malformed"],
  ["crit twice", rawToken('{"alg":"ES256","kid":"p256","crit":["x"],"crit":[]}', claims()), "token_malformed"],
  ["iat twice", rawToken(header(), `{"iat":0,${claims().slice(1)}`), "token_malformed"],
  ["jti twice", rawToken(header(), `${claims().slice(0, -1)},"jti":"another"}`), "token_malformed"],
  [
    "sub twice, once escaped",
    rawToken(header(), String.raw`{"\u0073ub":"admin",${claims().slice(1)}`),
    "token_malformed",
  ],
];

const notUtf8 = Buffer.concat([Buffer.from('{"iss":"'), Buffer.from([0xff, 0xfe]), Buffer.from('"}')]);

export const json: CaseClass = ({ header, claims }) => [
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

export const sizes: CaseClass = ({ token }) => [
  ["empty", "", "token_malformed"],
  ["two dots", "..", "token_malformed"],
  ["one character over the limit", "a".repeat(8193), "token_malformed"],
  ["10 MB", "a".repeat(10_000_000), "token_malformed"],
  ["10 MB of dots", ".".repeat(10_000_000), "token_malformed"],
  ["a good token with a big claim", token({ big: "x".repeat(8000) }), "token_malformed"],
  ["600 claims", token(Object.fromEntries(Array.from({ length: 600 }, (_, i) => [`c${i}`, 0]))), "token_malformed"],
  ["600 groups", token({ groups: Array.from({ length: 600 }, () => 1) }), "token_malformed"],
];
