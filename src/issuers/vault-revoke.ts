import { setTimeout as delay } from "node:timers/promises";
import { MayflyError } from "../lib/errors.ts";
import type { ProbeResult } from "./issuer.ts";
import type { VaultAnswer, VaultCall, VaultLane } from "./vault-client.ts";

/** What was made in Vault, as far as it is known: the child token's accessor, and the leases of what it read. */
export interface Made {
  readonly accessor?: string | undefined;
  readonly leases?: readonly string[] | undefined;
}

type Seen = "gone" | "there";

interface Left {
  readonly none: boolean;
  readonly leases: readonly string[];
  /** For people. */
  readonly called: string;
}

const REVOKE_WITHIN_MS = 8_000;
const FIRST_LOOK_MS = 20;
/** Vault takes leases back in a queue. What is still there after this is asked for once more, at once and by name. */
const PATIENCE_MS = 3_000;

/**
 * Ends the child token and waits until Vault says that it and every lease under it are gone. Throws `target_unavailable`
 * when they are not within the time limit, `target_rejected` when Vault does not let us.
 */
export async function revokeInVault(lane: VaultLane, made: Made, signal: AbortSignal): Promise<void> {
  const { accessor } = made;
  // Nothing was read from an engine, and a child token that was made is known to nobody. But what cannot be asked proves nothing.
  if (accessor === undefined) return mustAnswer(lane, signal);
  const answer = await lane.call(write("auth/token/revoke-accessor", { accessor }), signal);
  // Already gone, or on its way: the look that follows tells.
  if (!answer.ok && !saysOnly(answer, "invalid accessor") && !saysOnly(answer, "token not found"))
    throw answer.refusal("the child token was not revoked");

  const startedAt = performance.now();
  let pushed = false;
  for (let wait = FIRST_LOOK_MS; ; wait = Math.min(wait * 2, 500)) {
    const left = await stillThere(lane, made, signal);
    if (left.none) return;
    const waited = performance.now() - startedAt;
    if (waited > REVOKE_WITHIN_MS)
      throw new MayflyError("target_unavailable", `Vault has not taken back yet: ${left.called}`);
    if (waited > PATIENCE_MS && !pushed) {
      pushed = true;
      // Also what Vault itself has given up on (an irrevocable lease) and would try again after a day.
      for (const lease of left.leases) await push(lane, lease, signal);
    }
    await delay(wait, undefined, { signal }).catch(() => undefined);
  }
}

async function push(lane: VaultLane, lease: string, signal: AbortSignal): Promise<void> {
  const answer = await lane.call(write("sys/leases/revoke", { lease_id: lease, sync: true }), signal);
  // Vault says 400 also when the engine's far side is away: it may be back.
  if (!answer.ok && answer.status !== 400) throw answer.refusal("the engine was not asked to take back its lease");
  if (!answer.ok) throw new MayflyError("target_unavailable", "the engine did not take back its lease");
}

async function mustAnswer(lane: VaultLane, signal: AbortSignal): Promise<void> {
  const answer = await lane.call({ method: "read", path: "auth/token/lookup-self" }, signal);
  if (!answer.ok) throw answer.refusal("the broker's own token cannot be looked up");
}

/** What of it Vault still has. */
async function stillThere(lane: VaultLane, { accessor, leases = [] }: Made, signal: AbortSignal): Promise<Left> {
  const [token, ...seen] = await Promise.all([
    accessor === undefined ? "gone" : lookupAccessor(lane, accessor, signal),
    ...leases.map((lease) => lookupLease(lane, lease, signal)),
  ]);
  const left = leases.filter((_, index) => seen[index] !== "gone");
  // A lease's id is its path and a random end; the path is what we asked for.
  const called = left.map((lease) => `a lease of ${lease.slice(0, lease.lastIndexOf("/"))}`);
  const names = [...(token === "gone" ? [] : ["the child token"]), ...new Set(called)];
  return { none: names.length === 0, leases: left, called: names.join(", ") };
}

async function lookupAccessor(lane: VaultLane, accessor: string, signal: AbortSignal): Promise<Seen> {
  const answer = await lane.call(write("auth/token/lookup-accessor", { accessor }), signal);
  if (answer.ok) return "there";
  if (saysOnly(answer, "invalid accessor")) return "gone";
  // Its entry is there, its token is not any more: Vault is at it.
  if (saysOnly(answer, "bad token")) return "there";
  throw answer.refusal("the child token's accessor was not looked up");
}

async function lookupLease(lane: VaultLane, lease: string, signal: AbortSignal): Promise<Seen> {
  const answer = await lane.call(write("sys/leases/lookup", { lease_id: lease }), signal);
  // Also past its end and irrevocable: as long as there is a lease, the engine has not said that it took it back.
  if (answer.ok) return "there";
  if (saysOnly(answer, "invalid lease")) return "gone";
  throw answer.refusal("a lease was not looked up");
}

// A bare 404 of something in between is not Vault's word (reliability A9). Some of Vault's come as a list of one.
function saysOnly({ status, errors }: VaultAnswer, text: string): boolean {
  const [only = ""] = errors;
  return (
    status >= 400 && status < 500 && errors.length === 1 && [text, `1 error occurred:\n\t* ${text}\n\n`].includes(only)
  );
}

function write(path: string, data: Readonly<Record<string, unknown>>): VaultCall {
  return { method: "write", path, data };
}

/** Looks up the child token by its accessor, and every lease. Dead when Vault says of each that there is none. */
export async function probeInVault(lane: VaultLane, made: Made, signal: AbortSignal): Promise<ProbeResult> {
  const by = "vault_lookup";
  try {
    if (made.accessor === undefined) {
      await mustAnswer(lane, signal);
      return { outcome: "dead", by, detail: "no engine was read: a child token that was made is known to nobody" };
    }
    const left = await stillThere(lane, made, signal);
    if (!left.none) return { outcome: "alive", by, detail: `still there: ${left.called}`.slice(0, 300) };
    const leases = made.leases === undefined ? "what it read was given to nobody" : `no lease of ${made.leases.length}`;
    return { outcome: "dead", by, detail: `no child token, ${leases}` };
  } catch (error) {
    const detail = error instanceof MayflyError ? error.detail : "Vault did not say";
    return { outcome: "unknown", by, detail };
  }
}
