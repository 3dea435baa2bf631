import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

/** A helper process of a benchmark that answers one message after the other. */
export interface Helper extends AsyncDisposable {
  readonly pid: number;
  ask<Answer>(message: object): Promise<Answer>;
}

/** Starts `bench/support/<file>` in a process of its own, so that what it does is not done on anybody's event loop. */
export function startHelper(file: string, env: Readonly<Record<string, string>> = {}): Helper {
  const child = fork(fileURLToPath(new URL(file, import.meta.url)), {
    env: { PATH: process.env["PATH"] ?? "", NODE_ENV: "production", ...env },
    serialization: "advanced",
    // A warning per start (oidc-provider about its adapter) is not a result.
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  endWith(child);
  return {
    pid: child.pid ?? 0,
    async ask<Answer>(message: object) {
      const ended = new AbortController();
      const answered = once(child, "message", { signal: ended.signal });
      const gone = once(child, "exit", { signal: ended.signal }).then(([code]) => {
        throw new Error(`${file} ended (${String(code)}) before it answered`);
      });
      child.send(message);
      try {
        const [answer] = (await Promise.race([answered, gone])) as [{ error?: string } & Answer];
        if (answer.error !== undefined) throw new Error(`${file}: ${answer.error}`);
        return answer;
      } finally {
        ended.abort();
        await Promise.allSettled([answered, gone]);
      }
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGTERM");
      await once(child, "exit");
    },
  };
}

/** The other end: answers every message with what `work` gives. */
export function answerParent(work: (message: never) => Promise<object>): void {
  process.on("message", (message) => {
    work(message as never).then(
      (answer) => process.send?.(answer),
      (error: unknown) =>
        process.send?.({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    );
  });
  process.once("disconnect", () => process.exit(0));
}

/** A child must not outlive a benchmark that is interrupted. SIGTERM lets a server stop its database. */
export function endWith(child: ChildProcess): void {
  const end = (): void => void child.kill("SIGTERM");
  process.once("exit", end);
  child.once("exit", () => process.off("exit", end));
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => process.exit(130));
