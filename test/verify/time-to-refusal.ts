import { setTimeout as delay } from "node:timers/promises";
import { AccessRefused, type Call, type Verifier } from "../../src/verify/index.ts";

/** A token that is good, and somebody who calls with it: every call is a new one. */
export interface Living {
  readonly id: string;
  call(): Promise<Call> | Call;
}

/** How long after a revocation its token was refused, in milliseconds. */
export interface TimeToRefusal {
  /** Since the revocation was asked for: no definition gives more. */
  readonly sinceAsked: number;
  /** Since its answer arrived; 0 when the token was refused before. */
  readonly sinceAnswered: number;
}

/** Between two tries: what is measured is longer than the truth by at most this and one verification. */
const EVERY_MS = 5;
const GIVE_UP_MS = 30_000;

/**
 * Takes tokens back, so many at a time, and calls with each all the while until it is refused as revoked. Throws when a token
 * was not good before, is refused for another reason, or is still let in half a minute later.
 */
export async function timesToRefusal(
  verifier: Pick<Verifier, "verify">,
  living: readonly Living[],
  revoke: (id: string) => Promise<void>,
  lanes: number,
): Promise<TimeToRefusal[]> {
  const work = living.values();
  const times: TimeToRefusal[] = [];
  const lane = async (): Promise<void> => {
    for (const one of work) {
      await verifier.verify(await one.call());
      const asked = performance.now();
      const [answered, refused] = await Promise.all([
        revoke(one.id).then(() => performance.now()),
        refusalOf(verifier, one, asked + GIVE_UP_MS),
      ]);
      times.push({ sinceAsked: refused - asked, sinceAnswered: Math.max(0, refused - answered) });
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return times;
}

async function refusalOf(verifier: Pick<Verifier, "verify">, one: Living, giveUpAt: number): Promise<number> {
  while (!(await isRefused(verifier, one))) {
    if (performance.now() > giveUpAt) throw new Error(`${one.id} is let in though it was revoked`);
    await delay(EVERY_MS);
  }
  return performance.now();
}

async function isRefused(verifier: Pick<Verifier, "verify">, one: Living): Promise<boolean> {
  try {
    await verifier.verify(await one.call());
    return false;
  } catch (error) {
    if (error instanceof AccessRefused && error.code === "token_revoked") return true;
    throw error;
  }
}
