import { MayflyError } from "../lib/errors.ts";
import { oauthError } from "../lib/oauth-error.ts";
import { createNonces } from "./dpop-nonce.ts";
import { createProofCheck } from "./dpop-proof.ts";

/** Proofs of possession (RFC 9449), checked alike by every process that shares the key encryption key and the database. */
export interface Proofs {
  /**
   * Checks the proof of one request to `url`, which is ours as the caller knows it, and consumes it. Gives the RFC 7638
   * thumbprint of the key that the caller holds. Throws `invalid_dpop_proof`, saying what is wrong, and `use_dpop_nonce`
   * with the nonce to use; never repeats a byte of the proof.
   */
  check(tenantId: string, proof: string, request: { readonly method: string; readonly url: string }): Promise<string>;
  /** The nonce for the caller's next proof (RFC 9449 §8). */
  nonce(): string;
}

export interface ProofsDeps {
  readonly nonceKey: Uint8Array;
  readonly consume: (
    tenantId: string,
    item: { readonly scope: string; readonly hash: string; readonly expires_ms: number },
  ) => Promise<{ readonly fresh: boolean }>;
  readonly nowMs: () => number;
}

// Processes whose clocks differ by this much still refuse what one of them has taken.
const CLOCKS_APART_MS = 60_000;

export function createProofs({ nonceKey, consume, nowMs }: ProofsDeps): Proofs {
  const nonces = createNonces(nonceKey, nowMs);
  const check = createProofCheck({ nonces, nowMs });
  return {
    nonce: nonces.present,
    async check(tenantId, proof, request) {
      const verdict = await check(proof, request, (item) =>
        consume(tenantId, { scope: "dpop", hash: item.hash, expires_ms: item.expires_ms + CLOCKS_APART_MS }),
      );
      if (verdict.ok) return verdict.thumbprint;
      if (verdict.problem === "nonce") throw nonceNeeded(verdict.detail, nonces.present());
      throw oauthError("invalid_dpop_proof", `the DPoP proof is not valid: ${verdict.detail}`);
    },
  };
}

function nonceNeeded(detail: string, nonce: string): Error {
  const reasons = [{ code: "use_dpop_nonce", detail }];
  return new MayflyError("invalid_request", detail, { reasons, headers: { "dpop-nonce": nonce } });
}
