import type { ServerResponse } from "node:http";

/**
 * Writes pieces as they come, and asks for the next one only when the reader has taken the one before: what a slow reader
 * has not read is never held here. Resolves at the end of the pieces, when `signal` aborts, or, as `false`, when the reader
 * has taken nothing for `slowReaderMs`. Rejects when a piece could not be made. The pieces are told to stop in every case.
 */
export async function pour(
  res: ServerResponse,
  pieces: AsyncIterable<string>,
  signal: AbortSignal,
  slowReaderMs: number,
): Promise<boolean> {
  const all = async (): Promise<boolean> => {
    for await (const piece of pieces) {
      if (signal.aborted) return true;
      if (!res.write(piece) && !(await drained(res, signal, slowReaderMs))) return false;
    }
    return true;
  };
  const aborted = new Promise<true>((resolve) => {
    if (signal.aborted) resolve(true);
    signal.addEventListener("abort", () => resolve(true), { once: true });
  });
  // Pieces that are waiting for something do not hold up the end; they see the signal when they look.
  return Promise.race([all(), aborted]);
}

/** Whether the reader has taken what was written, or need not any more. */
function drained(res: ServerResponse, signal: AbortSignal, limitMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const settle = (outcome: boolean): void => {
      clearTimeout(timer);
      res.off("drain", taken);
      signal.removeEventListener("abort", taken);
      resolve(outcome);
    };
    const taken = (): void => settle(true);
    const timer = setTimeout(settle, limitMs, false);
    res.once("drain", taken);
    signal.addEventListener("abort", taken);
  });
}
