import { setTimeout as delay } from "node:timers/promises";

/**
 * Settles as `work` does, or rejects with code `ETIMEDOUT` once `ms` have passed: BullMQ waits for ever for a server
 * that is down (reliability B4). What comes later is ignored.
 */
export async function within<Value>(ms: number, what: string, work: Promise<Value>): Promise<Value> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    const giveUp = () => reject(Object.assign(new Error(`${what}: no answer within ${ms} ms`), { code: "ETIMEDOUT" }));
    timer = setTimeout(giveUp, ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits, and ends early (without an error) when `signal` is aborted. */
export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  await delay(ms, undefined, signal === undefined ? {} : { signal }).catch(() => undefined);
}
