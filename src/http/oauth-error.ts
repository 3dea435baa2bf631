import type { ErrorCode, MayflyError } from "../lib/errors.ts";
import { oauthErrorCodes } from "../lib/oauth-error.ts";
import type { Answer } from "./answer.ts";
import { headersOf } from "./problem.ts";

const known: ReadonlySet<string> = new Set(oauthErrorCodes);

// RFC 6749 §5.2 answers 400 for everything but a failed client authentication; what HTTP itself gives a meaning
// to (size, rate, outage) keeps its status so that generic clients back off.
const byCode: Readonly<Record<ErrorCode, readonly [status: number, error: string]>> = {
  invalid_request: [400, "invalid_request"],
  unauthenticated: [401, "invalid_client"],
  denied: [400, "access_denied"],
  forbidden: [400, "unauthorized_client"],
  not_found: [400, "invalid_request"],
  method_not_allowed: [405, "invalid_request"],
  conflict: [400, "invalid_request"],
  in_progress: [409, "invalid_request"],
  precondition_failed: [400, "invalid_request"],
  payload_too_large: [413, "invalid_request"],
  unsupported_media_type: [400, "invalid_request"],
  idempotency_mismatch: [422, "invalid_request"],
  target_refused: [400, "invalid_target"],
  precondition_required: [400, "invalid_request"],
  rate_limited: [429, "temporarily_unavailable"],
  internal: [500, "server_error"],
  not_supported: [501, "invalid_request"],
  target_rejected: [502, "server_error"],
  target_unavailable: [503, "temporarily_unavailable"],
  unavailable: [503, "temporarily_unavailable"],
};

/** The RFC 6749 §5.2 document of an error. Not cacheable (no answer is, unless it says so), and never an echo outside the RFC's character set. */
export function oauthAnswer(error: MayflyError): Answer {
  const [status, fallback] = byCode[error.code];
  const [first, ...rest] = error.reasons;
  const named = first !== undefined && known.has(first.code);
  const reasons = named ? rest : error.reasons;
  const document = {
    error: named ? first.code : fallback,
    error_description: describe(error),
    ...(reasons.length > 0 ? { reasons } : {}),
  };
  return {
    status: named && first.code === "invalid_client" ? 401 : status,
    headers: {
      "content-type": "application/json; charset=utf-8",
      ...headersOf(error),
    },
    body: JSON.stringify(document),
  };
}

function describe(error: MayflyError): string {
  const [first] = error.errors;
  const text = first === undefined ? error.detail : `${error.detail}: ${first.pointer.slice(1)} ${first.detail}`;
  return (
    text
      .replaceAll('"', "'")
      // RFC 6749 §5.2: %x20-21 / %x23-5B / %x5D-7E
      .replace(/[^\x20-\x21\x23-\x5b\x5d-\x7e]/g, "?")
      .slice(0, 400)
  );
}
