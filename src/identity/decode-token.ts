import { isUtf8 } from "node:buffer";
import { parseStrictJson, StrictJsonError } from "../lib/strict-json.ts";
import { type Refusal, refuse } from "./refusal.ts";

/** The longest token that is looked at: 8 KiB, checked before anything is decoded (reliability D15). */
const MAX_TOKEN_LENGTH = 8192;

/** The claims of a token, as its issuer wrote them. */
export type Claims = Readonly<Record<string, unknown>>;

/** A token taken apart. NOTHING in it is verified. */
export interface DecodedToken {
  readonly alg: string;
  readonly kid: string | undefined;
  readonly typ: string | undefined;
  readonly headerNames: readonly string[];
  /** The key that the header carries, for proofs alone; undefined in every other kind of token. */
  readonly jwk: unknown;
  readonly claims: Claims;
  /** The very bytes that the claims were read from, to compare with what the signature covers. */
  readonly payload: Buffer;
}

export type Decoding =
  | { readonly ok: true; readonly token: DecodedToken }
  | { readonly ok: false; readonly refusal: Refusal };

// RFC 8725 §3.10 and RFC 7515 §4.1: each of these fetches or carries key material, or changes what is signed.
const forbiddenHeaders = ["b64", "zip", "jku", "x5u", "jwk", "x5c"];
const COMPACT = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/;

/**
 * Takes a compact JWS apart (RFC 7515 §7.1) and refuses what no trust source accepts: anything but three canonical
 * base64url parts of strict JSON objects, and header members that carry keys or change the signing input. A proof of
 * possession carries its own key (`proof`): who it is then hangs on what else is bound to that key. `maxLength` is for
 * documents that were fetched; what a caller sends has the usual one.
 */
export function decodeToken(
  token: string,
  kind: "identity" | "proof" = "identity",
  maxLength = MAX_TOKEN_LENGTH,
): Decoding {
  if (token.length > maxLength) return malformed(`a token has at most ${maxLength} characters`);
  if (!COMPACT.test(token)) return malformed("a token is three base64url parts joined by dots");
  const [first = "", second = "", third = ""] = token.split(".");
  // RFC 4648 §3.5: with loose trailing bits one signature would have several spellings (reliability D4).
  if (!isCanonical(first) || !isCanonical(second) || !isCanonical(third)) {
    return malformed("a part of the token is not canonical base64url");
  }
  const header = parseObject(Buffer.from(first, "base64url"), "header");
  if (typeof header === "string") return malformed(header);
  const payload = Buffer.from(second, "base64url");
  const claims = parseObject(payload, "payload");
  if (typeof claims === "string") return malformed(claims);
  const refusal = checkHeader(
    header,
    kind === "proof" ? forbiddenHeaders.filter((name) => name !== "jwk") : forbiddenHeaders,
  );
  if (refusal !== undefined) return { ok: false, refusal };
  const { alg, kid, typ } = header as { alg: string; kid: string | undefined; typ: string | undefined };
  return { ok: true, token: { alg, kid, typ, headerNames: Object.keys(header), jwk: header["jwk"], claims, payload } };
}

/** A `typ` as it is compared: a media type without case, with or without its `application/` (RFC 7515 §4.1.9). */
export function shortType(typ: string): string {
  return typ.toLowerCase().replace(/^application\//, "");
}

/** A text that is a name of something: not empty, not endless, no control characters that would break a log. */
export function isName(value: unknown, maxLength: number): value is string {
  return typeof value === "string" && value.length > 0 && value.length <= maxLength && !/\p{Cc}/u.test(value);
}

function checkHeader(header: Claims, notAllowed: readonly string[]): Refusal | undefined {
  if (Object.hasOwn(header, "crit"))
    return refuse("token_crit_unsupported", "critical header extensions are not supported");
  const forbidden = notAllowed.find((name) => Object.hasOwn(header, name));
  if (forbidden !== undefined)
    return refuse("token_header_not_allowed", `the header member ${forbidden} is not accepted`);
  if (typeof header.alg !== "string") return refuse("token_alg_not_allowed", "the header has no alg");
  if (header.typ !== undefined && !isName(header.typ, 100)) {
    return refuse("token_typ_not_allowed", "typ is not a media type");
  }
  if (header.kid !== undefined && !isName(header.kid, 256)) {
    return refuse("token_header_not_allowed", "kid is not a text of 1 to 256 characters");
  }
  return undefined;
}

function parseObject(bytes: Buffer, part: "header" | "payload"): Record<string, unknown> | string {
  if (!isUtf8(bytes)) return `the ${part} is not UTF-8`;
  try {
    const value = parseStrictJson(bytes.toString("utf8"));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
    return `the ${part} is not a JSON object`;
  } catch (error) {
    if (error instanceof StrictJsonError) return `the ${part} is not strict JSON: ${error.message}`;
    throw error;
  }
}

/** Whether the last character's unused bits are zero, and there is no impossible length. */
function isCanonical(part: string): boolean {
  const last = part.charAt(part.length - 1);
  switch (part.length % 4) {
    case 0:
      return true;
    case 1:
      return false;
    case 2:
      return "AQgw".includes(last);
    default:
      return "AEIMQUYcgkosw048".includes(last);
  }
}

function malformed(detail: string): Decoding {
  return { ok: false, refusal: refuse("token_malformed", detail) };
}
