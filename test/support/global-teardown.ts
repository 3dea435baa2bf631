import { once } from "node:events";
import { rm } from "node:fs/promises";
import { testRun } from "./run-state.ts";

/** Ends what globalSetup started, and nothing else. */
export default async function globalTeardown(): Promise<void> {
  const run = testRun.current;
  if (run === undefined) return;
  await run.postgres.stop();
  const gone = once(run.watchdog, "exit");
  run.watchdog.ref();
  run.watchdog.stdin?.end();
  await gone;
  await rm(run.directory, { recursive: true, force: true });
}
