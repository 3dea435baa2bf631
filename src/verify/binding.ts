import { createHash } from "node:crypto";
import type { Nonces } from "../identity/dpop-nonce.ts";
import { type CheckProof, type ConsumeProof, createProofCheck } from "../identity/dpop-proof.ts";
import type { AccessToken } from "./access-token.ts";
import { type Call, externalUrl, isRefused, readProof } from "./call.ts";
import type { Clock } from "./clock.ts";
import { type AccessRefusal, refusal, type Scheme } from "./refusal.ts";
import type { ReplayStore } from "./replays.ts";

/** Whether a call is by the holder of its token; undefined when it is. `hash` is the token's SHA-256 in base64url. */
export type CheckBinding = (
  call: Call,
  scheme: Scheme,
  token: AccessToken,
  hash: string,
) => Promise<AccessRefusal | undefined>;

/**
 * Holds a token to what it is bound to (RFC 7800): a key, by a DPoP proof (RFC 9449 §7); a certificate, by the TLS
 * handshake (RFC 8705 §3). A bound token is never taken as a bearer token, and a bearer token only where it is allowed.
 */
export function createBindingCheck(settings: {
  readonly publicUrl: string;
  readonly allowBearer: boolean;
  readonly replayStore: ReplayStore;
  readonly nonces: Nonces | undefined;
  readonly clock: Clock;
}): CheckBinding {
  const { publicUrl, allowBearer, replayStore, nonces, clock } = settings;
  const check = createProofCheck({ nowMs: clock.wallMs, ...(nonces === undefined ? {} : { nonces }) });
  const consume: ConsumeProof = async ({ hash, expires_ms: expiresMs }) => {
    // Of a store of the API's own nothing but true means that the proof is new.
    const first: unknown = await replayStore.consume(hash, expiresMs);
    return { fresh: first === true };
  };
  return async (call, scheme, { jkt, x5tS256 }, hash) => {
    if (jkt === undefined && scheme === "DPoP") return mismatch("it is not bound to a key: it cannot be sent as DPoP");
    if (jkt !== undefined && scheme !== "DPoP") return mismatch("it is bound to a key: send it as DPoP, with a proof");
    if (jkt === undefined && x5tS256 === undefined && !allowBearer)
      return mismatch("it is bound to nothing: this API takes bound tokens alone");
    if (x5tS256 !== undefined && thumbprintOf(call.certificate) !== x5tS256)
      return mismatch("it is bound to a certificate that the caller has not shown");
    return jkt === undefined
      ? undefined
      : await checkProof({ check, consume, publicUrl }, call, { hash, thumbprint: jkt });
  };
}

async function checkProof(
  by: { readonly check: CheckProof; readonly consume: ConsumeProof; readonly publicUrl: string },
  call: Call,
  token: { readonly hash: string; readonly thumbprint: string },
): Promise<AccessRefusal | undefined> {
  const url = externalUrl(call.url, by.publicUrl);
  if (url === undefined) return refusal("request_malformed", "the URL of the call is neither absolute nor a path");
  const proof = readProof(call.headers);
  if (isRefused(proof)) return proof;
  try {
    const verdict = await by.check(proof, { method: call.method, url, token }, by.consume);
    if (verdict.ok) return undefined;
    if (verdict.problem === "other_key")
      return mismatch("the DPoP proof is by another key than the one it is bound to");
    if (verdict.problem === "nonce") return refusal("proof_nonce_needed", verdict.detail);
    return refusal("proof_invalid", `the DPoP proof is not valid: ${verdict.detail}`);
  } catch {
    // Only the store can fail. Without it nobody knows whether the proof was used before.
    return refusal("replays_unavailable", "whether the DPoP proof was used before cannot be known now");
  }
}

/** RFC 8705 §3.1: of the DER of the leaf, never of its names. */
function thumbprintOf(certificate: Call["certificate"]): string | undefined {
  const der = typeof certificate === "function" ? certificate() : certificate;
  return der === undefined || der.length === 0 ? undefined : createHash("sha256").update(der).digest("base64url");
}

function mismatch(detail: string): AccessRefusal {
  return refusal("token_binding_mismatch", detail);
}
