import { MayflyError } from "../lib/errors.ts";
import type { Sealer } from "../lib/seal.ts";
import type { TargetClients } from "../targets/target-clients.ts";

/** One credential that `mayfly.claim_due` handed to this worker. Times are database milliseconds. */
export interface Claimed {
  readonly id: string;
  readonly target_id: string;
  readonly issuer: string;
  readonly downstream_name: string;
  readonly handle_sealed: Buffer;
  readonly attempts: number;
  readonly expires_ms: string;
  readonly due_ms: string;
  readonly revocability: "immediate" | "expiry";
  readonly was_active: boolean;
  readonly create_by_ms: string;
  readonly now_ms: string;
  readonly state_reason: string;
}

/** How one attempt ended. `ended` needs proof; everything else is tried again. */
export type Attempt =
  | {
      readonly kind: "ended";
      readonly state: "revoked" | "expired" | "failed";
      readonly receipt: Readonly<Record<string, unknown>>;
    }
  | { readonly kind: "again"; readonly error: string | null; readonly afterMs?: number };

export interface ProveDeps {
  readonly targets: TargetClients;
  readonly handles: Sealer;
  /** How long after `create_by` a create that was held up on its way might still be on its way. */
  readonly quiescenceMs: number;
}

/** One attempt may take this long; the worker's claim is longer (invariant: no two workers on one credential). */
export const ATTEMPT_MS = 10_000;

/**
 * Revoke, then probe, then a receipt (invariant 6). `dead` seen by the probe is the only way to `ended`; a far side
 * that says "deleted" proves nothing. A credential that never became active may still be created by a request that is
 * held up somewhere: it is taken back now and looked at once more when that can no longer happen (reliability C8).
 */
export async function proveDead(deps: ProveDeps, tenantId: string, claimed: Claimed): Promise<Attempt> {
  const signal = AbortSignal.timeout(ATTEMPT_MS);
  const startedAt = performance.now();
  try {
    const handle: unknown = JSON.parse(deps.handles.open(claimed.handle_sealed, claimed.id));
    const { issuer, client, config } = await deps.targets.connect(tenantId, claimed.target_id);
    const { backstopSeconds } = issuer.bounds(config);
    if (claimed.revocability === "expiry") return untilItsOwnEnd(claimed, backstopSeconds ?? 0);
    const { residue } = await issuer.revoke(client, issuer.handle.parse(handle), signal);
    const seen = await issuer.probe(client, issuer.handle.parse(handle), signal);
    if (seen.outcome !== "dead")
      return { kind: "again", error: `probe says ${seen.outcome}: ${seen.detail}`.slice(0, 300) };

    const quietAtMs = Number(claimed.create_by_ms) + deps.quiescenceMs;
    const nowMs = Number(claimed.now_ms) + (performance.now() - startedAt);
    if (!claimed.was_active && nowMs < quietAtMs)
      return { kind: "again", error: null, afterMs: quietAtMs - nowMs + 50 };

    return {
      kind: "ended",
      state: claimed.was_active ? "revoked" : "failed",
      receipt: {
        ended_by: endedBy(backstopSeconds, Number(claimed.expires_ms), nowMs),
        reason: claimed.state_reason,
        probe: seen.by,
        observed: seen.detail,
        took_ms: Math.round(performance.now() - startedAt),
        ...(residue === undefined ? {} : { residue }),
      },
    };
  } catch (error) {
    return { kind: "again", error: describe(error) };
  }
}

/** Which of the two ends came first: ours, or the backstop that the far side carried all along (design §4). */
function endedBy(backstopSeconds: number | undefined, expiresMs: number, nowMs: number): "mayfly" | "backstop" {
  return backstopSeconds !== undefined && nowMs > expiresMs + backstopSeconds * 1000 ? "backstop" : "mayfly";
}

/**
 * What nobody can take back ends when the far side ends it, by the database's clock. Waiting for that is no failure: the
 * credential is not stuck, it is `revoking`, and everybody who asks us is told that it is not to be used any more.
 */
function untilItsOwnEnd(claimed: Claimed, backstopSeconds: number): Attempt {
  const leftMs = Number(claimed.expires_ms) + backstopSeconds * 1000 - Number(claimed.now_ms);
  if (leftMs > 0) return { kind: "again", error: null, afterMs: leftMs + 50 };
  const observed = claimed.was_active
    ? "it cannot be taken back; its own end has passed"
    : "if it was made, nobody was given it; its own end has passed";
  const receipt = { ended_by: "expiry", reason: claimed.state_reason, probe: "expiry", observed, took_ms: 0 };
  return { kind: "ended", state: "expired", receipt };
}

/** For the row and the owner: our own errors in full, foreign ones by name and code alone (they may quote what we sent). */
function describe(error: unknown): string {
  if (error instanceof MayflyError) return `${error.code}: ${error.detail}`.slice(0, 300);
  if (error instanceof Error) return "code" in error ? `${error.name} ${String(error.code)}` : error.name;
  return "unknown error";
}
