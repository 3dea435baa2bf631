/** The two clocks of a process. Tests bring their own. */
export interface Clock {
  /** Milliseconds since 1970, to compare with what tokens say. */
  wallMs(): number;
  /** Milliseconds since whenever, that never go back, to measure ages. */
  monotonicMs(): number;
}

export const systemClock: Clock = { wallMs: () => Date.now(), monotonicMs: () => performance.now() };

/** How far the clocks of the broker, the callers and ours may be apart. It never makes a token live longer. */
export const CLOCKS_APART_SECONDS = 5;

/** A pause before the next attempt, in milliseconds: nearly none after a success, then doubling to `maxMs`, spread at random. */
export function pauseMs(failures: number, maxMs = 10_000): number {
  const most = failures === 0 ? 100 : Math.min(250 * 2 ** failures, maxMs);
  return most * (0.5 + Math.random() / 2);
}
