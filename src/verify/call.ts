import { type AccessRefusal, isRefusal, refusal, type Scheme } from "./refusal.ts";

/** A call to the API, as it came. */
export interface Call {
  readonly method: string;
  /** As the caller knows it: absolute, or a path below `publicUrl`. Never made of `Host` or `X-Forwarded-*`. */
  readonly url: string;
  /** All headers. Repeated ones as an array, as in `headersDistinct`: Node's `headers` hides a second Authorization. */
  readonly headers: Headers | Readonly<Record<string, string | readonly string[] | undefined>>;
  /** The caller's certificate from the TLS handshake in DER, or a function that gives it; needed for mTLS-bound tokens alone. */
  readonly certificate?: Uint8Array | (() => Uint8Array | undefined);
}

/** A token as it was sent. */
export interface SentToken {
  readonly scheme: Scheme;
  readonly text: string;
}

const AUTHORIZATION = /^([A-Za-z]{1,20}) +([A-Za-z0-9._~+/-]+=*)$/;

/** The token of a call: of its one Authorization header, and from nowhere else (RFC 9700 §4.3.2). */
export function readToken(headers: Call["headers"]): SentToken | AccessRefusal {
  const values = valuesOf(headers, "authorization");
  const [value] = values;
  if (value === undefined) return refusal("token_missing", "a token is needed: send it in the Authorization header");
  if (values.length > 1) return refusal("request_malformed", "there is more than one Authorization header");
  const [, name = "", text = ""] = AUTHORIZATION.exec(value) ?? [];
  const scheme = schemeOf(name === "" ? (value.split(" ", 1)[0] ?? "") : name);
  if (scheme === undefined) return refusal("token_missing", "a token is needed: the scheme must be DPoP or Bearer");
  if (text === "") return refusal("request_malformed", "the Authorization header is not a scheme and a token");
  return { scheme, text };
}

/** The one DPoP header (RFC 9449 §4.3, check 1). */
export function readProof(headers: Call["headers"]): string | AccessRefusal {
  const values = valuesOf(headers, "dpop");
  const [value] = values;
  if (value === undefined) return refusal("proof_invalid", "the DPoP header is missing");
  if (values.length > 1) return refusal("proof_invalid", "there is more than one DPoP header");
  return value;
}

/** The URI that a proof must be for, without query and fragment; undefined when the call's URL is none. */
export function externalUrl(url: string, publicUrl: string): string | undefined {
  const bare = url.split(/[?#]/, 1)[0] ?? "";
  if (bare.startsWith("/")) return `${publicUrl}${bare}`;
  return /^https?:\/\//.test(bare) && URL.canParse(bare) ? bare : undefined;
}

/** Whether a result of this file is a refusal. */
export function isRefused(value: string | SentToken | AccessRefusal): value is AccessRefusal {
  return typeof value !== "string" && isRefusal(value);
}

function schemeOf(name: string): Scheme | undefined {
  const scheme = name.toLowerCase();
  return scheme === "dpop" ? "DPoP" : scheme === "bearer" ? "Bearer" : undefined;
}

/** Every value of a header, however its name is spelled. */
function valuesOf(headers: Call["headers"], name: string): readonly string[] {
  if (headers instanceof Headers) {
    const value = headers.get(name);
    return value === null ? [] : [value];
  }
  const values: string[] = [];
  for (const key of Object.keys(headers)) {
    if (key.length !== name.length || key.toLowerCase() !== name) continue;
    const value = headers[key];
    if (typeof value === "string") values.push(value);
    else if (value !== undefined) values.push(...value);
  }
  return values;
}
