import type { ChildProcess } from "node:child_process";
import type { EmbeddedPostgres } from "../../src/db/embedded.ts";

/** The database that every test database is cloned from. */
export const TEMPLATE = "mayfly_template";

/** What globalSetup started and globalTeardown ends. */
export interface RunState {
  readonly directory: string;
  readonly postgres: EmbeddedPostgres;
  readonly watchdog: ChildProcess;
}

/** Jest loads setup and teardown as separate modules in one process, so they meet on globalThis. */
export const testRun = ((globalThis as { mayflyTestRun?: { current?: RunState } }).mayflyTestRun ??= {});
