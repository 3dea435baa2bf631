import { setMaxListeners } from "node:events";

/** A signal that aborts with `signal`, and when `withinMs` is over. Dispose it, or its timer stays. */
export function stopSignal(signal: AbortSignal, withinMs: number): Disposable & { readonly signal: AbortSignal } {
  const controller = new AbortController();
  const stop = (): void => controller.abort(new Error("stopped"));
  // One signal may stop any number of calls; ten is no leak here, because each takes its listener away again.
  setMaxListeners(0, signal, controller.signal);
  const timer = setTimeout(stop, Math.max(0, withinMs));
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
    },
  };
}

/** Lets so many in at a time, in the order in which they came; waiting ends, as a rejection, when the signal aborts. */
export function turnstile(places: number): { enter(signal: AbortSignal): Promise<Disposable> } {
  const waiting: (() => void)[] = [];
  let free = places;
  const leave = (): void => {
    const next = waiting.shift();
    if (next === undefined) free += 1;
    else next();
  };
  const turn: Disposable = { [Symbol.dispose]: leave };
  return {
    async enter(signal) {
      signal.throwIfAborted();
      if (free > 0) {
        free -= 1;
        return turn;
      }
      await new Promise<void>((resolve, reject) => {
        const enter = (): void => {
          signal.removeEventListener("abort", giveUp);
          resolve();
        };
        const giveUp = (): void => {
          waiting.splice(waiting.indexOf(enter), 1);
          reject(signal.reason as Error);
        };
        signal.addEventListener("abort", giveUp, { once: true });
        waiting.push(enter);
      });
      return turn;
    },
  };
}

/** The promise, or a rejection at once when the signal aborts; what comes all the same is given to `late`. */
export function unlessAborted<Value>(
  signal: AbortSignal,
  promise: Promise<Value>,
  late: (value: Value) => void = () => undefined,
): Promise<Value> {
  return new Promise((resolve, reject) => {
    const giveUp = (): void => reject(signal.reason as Error);
    signal.addEventListener("abort", giveUp, { once: true });
    promise
      .then(
        (value) => (signal.aborted ? late(value) : resolve(value)),
        (error: unknown) => reject(error as Error),
      )
      .finally(() => signal.removeEventListener("abort", giveUp));
    if (signal.aborted) giveUp();
  });
}
