import type { AccessToken } from "./access-token.ts";
import { type AccessRefusal, refusal } from "./refusal.ts";
import type { StatusLists } from "./status-lists.ts";
import type { StatusStream } from "./status-stream.ts";

/** Whether a token was taken back, from the freshest source there is. */
export type CheckStatus = (token: AccessToken) => Promise<AccessRefusal | undefined>;

/**
 * A connected stream answers alone. Without it the token's status list does, and where that cannot be read, what the
 * stream said last, for `maxAgeMs`. Who says invalid wins; who knows nothing recent enough refuses (fail closed).
 */
export function createStatusCheck(settings: {
  readonly stream: StatusStream | undefined;
  readonly lists: StatusLists;
  readonly maxAgeMs: number;
}): CheckStatus {
  const { stream, lists, maxAgeMs } = settings;
  return async (token) => {
    if (stream?.isInvalid(token.credentialId) === true) return revoked();
    if (stream?.isConnected() === true) return undefined;
    const listed = token.statusList === undefined ? "unknown" : await lists.statusOf(token.statusList);
    if (listed === "invalid") return revoked();
    // Asked again, because the list took its time.
    if (stream?.isInvalid(token.credentialId) === true) return revoked();
    if (listed === "valid" || ageOf(stream) <= maxAgeMs) return undefined;
    return refusal("status_unavailable", unavailable(ageOf(stream), maxAgeMs));
  };
}

function ageOf(stream: StatusStream | undefined): number {
  return stream?.ageMs() ?? Number.POSITIVE_INFINITY;
}

function unavailable(ageMs: number, maxAgeMs: number): string {
  const bound = `at most ${maxAgeMs} ms is accepted`;
  return Number.isFinite(ageMs)
    ? `whether the token was revoked is not known: the last news is ${Math.round(ageMs)} ms old, ${bound}`
    : `whether the token was revoked is not known: there is no news from the issuer, ${bound}`;
}

function revoked(): AccessRefusal {
  return refusal("token_revoked", "it was taken back, or its task is paused or over");
}
