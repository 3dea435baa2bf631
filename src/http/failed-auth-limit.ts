import { isIPv4, isIPv6 } from "node:net";

// A person who fixes a wrong token needs a handful of tries; a fleet that restarts with a stale one needs a few
// dozen at once. Beyond that, one failure every two seconds is still recorded.
const BURST = 30;
const PER_SECOND = 0.5;

// About 2 MB. With more addresses than this the one that failed longest ago is forgotten: a flood from everywhere
// is not something that counting by address can stop.
const MAX_ADDRESSES = 10_000;

/** Counts failed authentications by remote address. */
export interface FailedAuthLimit {
  /** Takes note of a failure. 0, or the seconds after which this address has a try again. */
  take(address: string): number;
}

interface Bucket {
  tokens: number;
  at: number;
}

/** A token bucket per address (per /64 of IPv6, which one caller may own whole), in this process's memory. */
export function createFailedAuthLimit(now: () => number = () => performance.now() / 1000): FailedAuthLimit {
  const buckets = new Map<string, Bucket>();
  return {
    take(address) {
      const key = networkOf(address);
      const at = now();
      const bucket = buckets.get(key) ?? { tokens: BURST, at };
      bucket.tokens = Math.min(BURST, bucket.tokens + (at - bucket.at) * PER_SECOND);
      bucket.at = at;
      // Re-inserted, so the map's order is the order of the last failure.
      buckets.delete(key);
      buckets.set(key, bucket);
      if (buckets.size > MAX_ADDRESSES) {
        const oldest = buckets.keys().next();
        if (oldest.done !== true) buckets.delete(oldest.value);
      }
      if (bucket.tokens < 1) return Math.ceil((1 - bucket.tokens) / PER_SECOND);
      bucket.tokens -= 1;
      return 0;
    },
  };
}

function networkOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined || isIPv4(address) || !isIPv6(address)) return mapped ?? address;
  const [head = "", tail] = (address.split("%")[0] ?? "").split("::");
  const before = head === "" ? [] : head.split(":");
  const after = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = tail === undefined ? 0 : 8 - before.length - after.length;
  const groups = [...before, ...Array.from({ length: Math.max(0, zeros) }, () => "0"), ...after];
  return groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(":");
}
