import { createHmac, timingSafeEqual } from "node:crypto";

/** Nonces for proofs of possession (RFC 9449 §8, §9): of time and a key alone, so that every process that has the key knows them. */
export interface Nonces {
  /** The nonce for the caller's next proof. */
  present(): string;
  /** Whether this is the present nonce, the one before it, or, for processes whose clock is ahead of ours, the next. */
  isGood(sent: unknown): boolean;
}

/** A nonce is good in the bucket that it was made in and in the next one. */
const NONCE_SECONDS = 60;

export function createNonces(key: Uint8Array, nowMs: () => number): Nonces {
  const nonceOf = (bucket: number): string => createHmac("sha256", key).update(`${bucket}`).digest("base64url");
  let made = { bucket: Number.NaN, good: [""] };
  const goodNonces = (): readonly string[] => {
    const bucket = Math.floor(nowMs() / 1000 / NONCE_SECONDS);
    if (made.bucket !== bucket) made = { bucket, good: [bucket, bucket - 1, bucket + 1].map(nonceOf) };
    return made.good;
  };
  return {
    present: () => goodNonces()[0] ?? "",
    isGood: (sent) => typeof sent === "string" && goodNonces().some((good) => isEqual(sent, good)),
  };
}

function isEqual(sent: string, ours: string): boolean {
  const [a, b] = [Buffer.from(sent), Buffer.from(ours)];
  return a.length === b.length && timingSafeEqual(a, b);
}
