/** Remembers which DPoP proofs were used. Give your own when several replicas serve one API: Redis `SET … NX PX` is one. */
export interface ReplayStore {
  /**
   * Consumes a proof, named by a hash: true for the first of all who ask. It may be forgotten at `expiresAtMs` (since 1970).
   * When it rejects, the call is refused with 503.
   */
  consume(hash: string, expiresAtMs: number): Promise<boolean> | boolean;
}

/** Some 25 MB: 3,000 calls a second. */
const MAX_PROOFS = 200_000;

/** This process ran out of room for proofs. To forget one early would let it be used twice. */
export class TooManyProofs extends Error {
  constructor() {
    super("more DPoP proofs than can be remembered were sent within a minute");
    this.name = "TooManyProofs";
  }
}

/** A store for one process, by the second in which proofs end. Throws {@link TooManyProofs} when it is full. */
export function createReplayStore(
  wallMs: () => number,
  most = MAX_PROOFS,
): { consume(hash: string, expiresAtMs: number): boolean } {
  const seconds = new Map<number, Set<string>>();
  let kept = 0;
  let forgotten = Number.NEGATIVE_INFINITY;
  const forget = (): void => {
    const now = Math.floor(wallMs() / 1000);
    if (now === forgotten) return;
    forgotten = now;
    for (const [second, hashes] of seconds) {
      if (second >= now) continue;
      kept -= hashes.size;
      seconds.delete(second);
    }
  };
  return {
    consume(hash, expiresAtMs) {
      forget();
      const second = Math.ceil(expiresAtMs / 1000);
      let hashes = seconds.get(second);
      if (hashes?.has(hash) === true) return false;
      if (kept >= most) throw new TooManyProofs();
      if (hashes === undefined) seconds.set(second, (hashes = new Set()));
      hashes.add(hash);
      kept += 1;
      return true;
    },
  };
}
