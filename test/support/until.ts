import { setTimeout as delay } from "node:timers/promises";

/**
 * Waits until `condition` holds and returns what it gave. Use it instead of a sleep: it says in its error what was
 * waited for. `undefined` and `false` mean "not yet"; an error ends the wait.
 */
export async function until<Value>(
  what: string,
  condition: () => Promise<Value | undefined | false> | Value | undefined | false,
  timeoutMs = 30_000,
): Promise<Value> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await delay(20);
  }
}
