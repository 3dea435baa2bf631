import { type Logger, pino } from "pino";

/** The structured logger. Log fields, never objects of foreign libraries: they may carry secrets (reliability H3). */
export type Log = Logger;

/**
 * A JSON logger on standard output. Secrets are redacted by type ({@link Secret} prints `[secret]`), errors are
 * reduced to name, code, message and stack of our own errors and to name and code of foreign ones.
 */
export function createLog(level: string, destination?: { write(line: string): void }): Log {
  const options = {
    level,
    base: null,
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { err: describeError },
  };
  return pino(options, destination ?? standardOutput());
}

/**
 * Standard output, written once per turn of the event loop: the lines of requests that are answered together go in one
 * system call. They are out before the next turn begins, and before the process ends.
 */
function standardOutput(): { write(line: string): void } {
  const output = pino.destination({ fd: 1, sync: true });
  let lines = "";
  const flush = (): void => {
    const text = lines;
    lines = "";
    if (text !== "") output.write(text);
  };
  process.on("exit", flush);
  return {
    write(line) {
      if (lines === "") setImmediate(flush);
      lines += line;
    },
  };
}

function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return { name: typeof error };
  const code = "code" in error ? String(error.code) : undefined;
  // A foreign error's message may quote what we sent (a SQL text, a header); ours never does.
  const own = error.name === "MayflyError" || error instanceof TypeError || error instanceof RangeError;
  return {
    name: error.name,
    code,
    ...(own ? { message: error.message, stack: error.stack } : {}),
    ...(error.cause === undefined ? {} : { cause: describeError(error.cause) }),
  };
}
