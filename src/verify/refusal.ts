import { proofAlgorithms } from "../identity/dpop-proof.ts";

/** The status and the OAuth error (RFC 6750 §3.1, RFC 9449 §7.1) of every refusal. No error: no token was sent. */
const answers = {
  token_missing: [401, undefined],
  request_malformed: [400, "invalid_request"],
  token_malformed: [401, "invalid_token"],
  token_header_not_allowed: [401, "invalid_token"],
  token_crit_unsupported: [401, "invalid_token"],
  token_alg_not_allowed: [401, "invalid_token"],
  token_typ_not_allowed: [401, "invalid_token"],
  token_issuer_unknown: [401, "invalid_token"],
  token_audience_mismatch: [401, "invalid_token"],
  token_claim_invalid: [401, "invalid_token"],
  token_expired: [401, "invalid_token"],
  token_not_yet_valid: [401, "invalid_token"],
  token_key_unknown: [401, "invalid_token"],
  token_signature_invalid: [401, "invalid_token"],
  token_binding_mismatch: [401, "invalid_token"],
  token_revoked: [401, "invalid_token"],
  proof_invalid: [401, "invalid_dpop_proof"],
  proof_nonce_needed: [401, "use_dpop_nonce"],
  insufficient_scope: [403, "insufficient_scope"],
  keys_unavailable: [503, undefined],
  status_unavailable: [503, undefined],
  replays_unavailable: [503, undefined],
} as const satisfies Record<string, readonly [status: number, error: string | undefined]>;

/** Why a call is refused. Stable: the code never changes its meaning. */
export type AccessRefusalCode = keyof typeof answers;

/** A refusal as data. `detail` is made of our own words and numbers alone, without quotes and backslashes (RFC 6750 §3). */
export interface AccessRefusal {
  readonly code: AccessRefusalCode;
  readonly detail: string;
}

/** A refusal, as a value. */
export function refusal(code: AccessRefusalCode, detail: string): AccessRefusal {
  return { code, detail };
}

/** Whether something is a refusal and not what was asked for. */
export function isRefusal(value: object): value is AccessRefusal {
  return "code" in value && "detail" in value;
}

/** A call that must not be answered otherwise than with this status and these headers. It repeats nothing of the call. */
export class AccessRefused extends Error {
  readonly status: 400 | 401 | 403 | 503;
  readonly code: AccessRefusalCode;
  /** What was wrong and, where there is something to do, what to do. */
  readonly detail: string;
  /** `www-authenticate`, `dpop-nonce`, `retry-after`: names in lower case. */
  readonly headers: Readonly<Record<string, string>>;

  constructor({ code, detail }: AccessRefusal, headers: Readonly<Record<string, string>>) {
    super(`${code}: ${detail}`);
    this.name = "AccessRefused";
    this.status = answers[code][0];
    this.code = code;
    this.detail = detail;
    this.headers = headers;
  }
}

/** What challenges say of this API. */
export interface ChallengeSettings {
  /** The audience, as `realm` of a Bearer challenge: RFC 6750 §3 wants a parameter. */
  readonly audience: string;
  /** Where the API's own metadata is (RFC 9728 §5.1). */
  readonly resourceMetadata: string | undefined;
  readonly allowBearer: boolean;
  /** The nonce for the next proof; undefined when none is asked for. */
  readonly nonce: (() => string) | undefined;
}

export type Scheme = "DPoP" | "Bearer";

/** Makes the error of a refusal, with the challenge of the scheme that the caller used. */
export type Refuse = (refusal: AccessRefusal, scheme?: Scheme) => AccessRefused;

const RETRY_AFTER_SECONDS = "1";

export function createRefuse({ audience, resourceMetadata, allowBearer, nonce }: ChallengeSettings): Refuse {
  const algs = `algs="${proofAlgorithms.join(" ")}"`;
  const metadata = resourceMetadata === undefined ? [] : [`resource_metadata="${resourceMetadata}"`];
  const challenge = (scheme: Scheme, error: readonly string[]): string =>
    `${scheme} ${[...error, ...(scheme === "DPoP" ? [algs] : [`realm="${audience}"`]), ...metadata].join(", ")}`;
  return (why, scheme = "DPoP") => {
    const [status, error] = answers[why.code];
    if (status === 503) return new AccessRefused(why, { "retry-after": RETRY_AFTER_SECONDS });
    const schemes: readonly Scheme[] = error === undefined && allowBearer ? ["DPoP", "Bearer"] : [scheme];
    const said = error === undefined ? [] : [`error="${error}"`, `error_description="${why.detail}"`];
    return new AccessRefused(why, {
      "www-authenticate": schemes.map((name) => challenge(name, said)).join(", "),
      ...(error === "use_dpop_nonce" && nonce !== undefined ? { "dpop-nonce": nonce() } : {}),
    });
  };
}
