import { MayflyError } from "../lib/errors.ts";

/** Readers of events at once. Each holds a connection, and there are 2,000 of those. */
const MAX_READERS = 1_000;
const MAX_READERS_OF_TENANT = 200;

/** Bounds how many may read events at this process. */
export interface Seats {
  /** Takes a seat until `signal` aborts. Throws `rate_limited` when the tenant has all of its seats, `unavailable` when there are none. */
  take(tenantId: string, signal: AbortSignal): void;
}

export function createSeats(onChange: (taken: number) => void): Seats {
  const taken = new Map<string, number>();
  let all = 0;
  const change = (tenantId: string, by: 1 | -1): void => {
    all += by;
    const now = (taken.get(tenantId) ?? 0) + by;
    if (now === 0) taken.delete(tenantId);
    else taken.set(tenantId, now);
    onChange(all);
  };
  return {
    take(tenantId, signal) {
      if (signal.aborted) return;
      if ((taken.get(tenantId) ?? 0) >= MAX_READERS_OF_TENANT)
        throw new MayflyError("rate_limited", "the tenant has too many readers of events at this process", {
          retryAfterSeconds: 5,
        });
      if (all >= MAX_READERS)
        throw new MayflyError("unavailable", "there are too many readers of events at this process", {
          retryAfterSeconds: 5,
        });
      change(tenantId, 1);
      signal.addEventListener("abort", () => change(tenantId, -1), { once: true });
    },
  };
}
