import { setTimeout as delay } from "node:timers/promises";
import { MayflyError } from "../lib/errors.ts";
import type { ProbeResult } from "./issuer.ts";

const FIRST_MS = 50;
const LONGEST_MS = 1_000;

/**
 * Waits until a probe has seen what was just made alive. Some far sides need a moment to know everywhere what they have made,
 * and some would never tell: a "no such token" is proof of death only for a token that was once seen alive. Rejects as
 * `target_unavailable` when the signal comes first.
 */
export async function untilAlive(
  called: string,
  probe: () => Promise<ProbeResult>,
  signal: AbortSignal,
): Promise<void> {
  let last = "";
  for (let waitMs = FIRST_MS; !signal.aborted; waitMs = Math.min(waitMs * 2, LONGEST_MS)) {
    const { outcome, detail } = await probe();
    if (outcome === "alive") return;
    if (!signal.aborted) last = detail;
    await delay(waitMs, undefined, { signal }).catch(() => undefined);
  }
  throw new MayflyError("target_unavailable", `${called} made a token that was not seen to work in time (${last})`);
}
