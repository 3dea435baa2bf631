import type { CryptoKey } from "jose";
import { type Claims, type DecodedToken, decodeToken, isName, shortType } from "../identity/decode-token.ts";
import { isSignedBy } from "../identity/is-signed-by.ts";
import { ACCESS_TOKEN_TYP } from "../lib/access-token.ts";
import { keepNewest } from "../lib/keep-newest.ts";
import { CLOCKS_APART_SECONDS, type Clock } from "./clock.ts";
import { type IssuerKeys, TOKEN_ALGORITHM } from "./issuer-keys.ts";
import { type AccessRefusal, isRefusal, refusal } from "./refusal.ts";

/** An access token that the issuer signed for this API, and that is not over. Says nothing about revocation. */
export interface AccessToken {
  readonly claims: Claims;
  /** `jti`: the credential's id. */
  readonly credentialId: string;
  readonly subject: string;
  readonly clientId: string;
  readonly expiresAt: number;
  readonly notBefore: number;
  /** How it is bound to its holder (RFC 7800): thumbprints of a DPoP key, of a certificate. Neither: it is a bearer token. */
  readonly jkt: string | undefined;
  readonly x5tS256: string | undefined;
  /** Its place in a Token Status List; undefined when it has none. */
  readonly statusList: StatusReference | undefined;
}

export interface StatusReference {
  readonly idx: number;
  readonly uri: string;
}

/** Judges the text of a token; `hash` is its SHA-256. */
export type CheckAccessToken = (token: string, hash: string) => Promise<AccessToken | AccessRefusal>;

/** Some 3 KB each. */
const MAX_REMEMBERED = 5_000;

/**
 * Checks tokens as RFC 9068 §4 says. What a token says of issuer, audience and time is read before a key is looked for, so
 * that forgeries cause no fetch. A signature is checked once per token, and counts while the very key is published.
 */
export function createAccessTokenCheck(settings: {
  readonly issuer: string;
  readonly audience: string;
  readonly keys: IssuerKeys;
  readonly clock: Clock;
}): CheckAccessToken {
  const { keys, clock } = settings;
  const remembered = new Map<string, { readonly kid: string; readonly key: CryptoKey; readonly token: AccessToken }>();
  return async (text, hash) => {
    const seen = remembered.get(hash);
    if (seen !== undefined && keys.isCurrent(seen.kid, seen.key)) return checkTimes(seen.token, clock) ?? seen.token;
    const decoding = decodeToken(text);
    // Of what decodeToken refuses each code is one of ours too.
    if (!decoding.ok) return decoding.refusal as AccessRefusal;
    const { typ, alg, kid, claims } = decoding.token;
    if (typ === undefined || shortType(typ) !== ACCESS_TOKEN_TYP)
      return refusal("token_typ_not_allowed", "this is no access token: its typ is not at+jwt");
    if (alg !== TOKEN_ALGORITHM) return refusal("token_alg_not_allowed", `its alg is not ${TOKEN_ALGORITHM}`);
    if (kid === undefined) return refusal("token_key_unknown", "it does not say which key signed it");
    if (claims["iss"] !== settings.issuer)
      return refusal("token_issuer_unknown", "it is not of the issuer that this API trusts");
    if (claims["aud"] !== settings.audience)
      return refusal("token_audience_mismatch", "it is for another API: aud must be this one, and nothing else");
    const token = readClaims(claims);
    if (isRefusal(token)) return token;
    const late = checkTimes(token, clock);
    if (late !== undefined) return late;
    const key = await signerOf(text, decoding.token, kid, keys);
    if (isRefusal(key)) return key;
    keepNewest(remembered, MAX_REMEMBERED, hash, { kid, key, token });
    return token;
  };
}

async function signerOf(
  text: string,
  decoded: DecodedToken,
  kid: string,
  keys: IssuerKeys,
): Promise<CryptoKey | AccessRefusal> {
  const found = await keys.find(kid);
  if (found === "unavailable")
    return refusal("keys_unavailable", "the keys of the issuer could not be read for an hour");
  if (found.length === 0) return refusal("token_key_unknown", "the issuer publishes no such key");
  for (const key of found) if (await isSignedBy(key, text, decoded)) return key;
  return refusal("token_signature_invalid", "its signature is not by the issuer");
}

/** `exp` gets no leeway: clocks that differ never make a token live longer. */
function checkTimes({ expiresAt, notBefore }: AccessToken, clock: Clock): AccessRefusal | undefined {
  const now = clock.wallMs() / 1000;
  // Written so that a clock that is no number accepts nothing.
  if (!(now < expiresAt)) return refusal("token_expired", "it has expired: get a new one");
  if (!(now >= notBefore - CLOCKS_APART_SECONDS)) return refusal("token_not_yet_valid", "it is not valid yet");
  return undefined;
}

function readClaims(claims: Claims): AccessToken | AccessRefusal {
  const { exp, iat, nbf, jti, sub, client_id: clientId, cnf, status } = claims;
  if (!isTime(exp) || !isTime(iat) || !(nbf === undefined || isTime(nbf)) || exp <= iat)
    return wrong("exp, iat or nbf is missing, or not a time");
  if (!isName(jti, 256)) return wrong("jti is not a text of 1 to 256 characters");
  if (!isName(sub, 2048) || !isName(clientId, 2048)) return wrong("sub or client_id is missing");
  const confirmation = readConfirmation(cnf);
  if (confirmation === undefined) return wrong("it is bound (cnf) to something that this API does not know");
  const statusList = readStatus(status);
  if (statusList === "unknown") return wrong("status is not a reference to a status list");
  return {
    claims,
    credentialId: jti,
    subject: sub,
    clientId,
    expiresAt: exp,
    notBefore: Math.max(iat, nbf ?? iat),
    ...confirmation,
    statusList,
  };
}

/** What the token is bound to. Undefined for a `cnf` of which any part is unknown: to overlook it would be a downgrade. */
function readConfirmation(cnf: unknown): Pick<AccessToken, "jkt" | "x5tS256"> | undefined {
  if (cnf === undefined) return { jkt: undefined, x5tS256: undefined };
  if (typeof cnf !== "object" || cnf === null) return undefined;
  const { jkt, "x5t#S256": x5tS256, ...others } = cnf as Readonly<Record<string, unknown>>;
  if (Object.keys(others).length > 0 || (jkt === undefined && x5tS256 === undefined)) return undefined;
  return isThumbprint(jkt) && isThumbprint(x5tS256) ? { jkt, x5tS256 } : undefined;
}

function isThumbprint(value: unknown): value is string | undefined {
  return value === undefined || (typeof value === "string" && /^[A-Za-z0-9_-]{43}$/.test(value));
}

function readStatus(status: unknown): StatusReference | undefined | "unknown" {
  if (status === undefined) return undefined;
  if (typeof status !== "object" || status === null || !("status_list" in status)) return "unknown";
  const list = status.status_list;
  if (typeof list !== "object" || list === null) return "unknown";
  const { idx, uri } = list as Readonly<Record<string, unknown>>;
  return Number.isSafeInteger(idx) && (idx as number) >= 0 && isName(uri, 2048)
    ? { idx: idx as number, uri }
    : "unknown";
}

function isTime(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function wrong(detail: string): AccessRefusal {
  return refusal("token_claim_invalid", detail);
}
