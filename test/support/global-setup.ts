import { execFile, spawn } from "node:child_process";
import { chmod, mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import pg from "pg";
import { startEmbeddedPostgres } from "../../src/db/embedded.ts";
import { migrate } from "../../src/db/migrate.ts";
import { provisionDatabase } from "../../src/db/provision.ts";
import { type RunState, TEMPLATE, testRun } from "./run-state.ts";

/**
 * Once per run: a PostgreSQL of its own on a free port, a migrated template database that `testDatabase()` clones, and
 * `dist/` for the tests that start Mayfly as a process. Everything lives in one temporary directory.
 */
export default async function globalSetup(): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "mayfly-test-"));
  // PostgreSQL is another user when the tests run as root, and must be able to pass through.
  await chmod(directory, 0o711);
  process.env["TEST_RUN_DIRECTORY"] = directory;
  const watchdog = startWatchdog(directory);
  const building = build();
  const postgres = await startEmbeddedPostgres({ directory: join(directory, "postgres"), durable: false });
  testRun.current = { directory, postgres, watchdog };
  process.env["TEST_POSTGRES_SUPERUSER_URL"] = postgres.superuserUrl;
  const { ownerUrl } = await provisionDatabase(postgres.superuserUrl, TEMPLATE);
  await migrate(ownerUrl);
  await closeTemplate(postgres.superuserUrl);
  await building;
}

// A template that somebody is connected to cannot be cloned; from now on nobody can connect.
async function closeTemplate(superuserUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: superuserUrl });
  await client.connect();
  await client.query(`alter database ${TEMPLATE} with is_template true allow_connections false`);
  await client.end();
}

// While several people edit one tree, a type error in somebody's file must not stop everybody's tests: tsc emits
// anyway, and `npm run check` and CI are strict.
async function build(): Promise<void> {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const tsc = join(root, "node_modules/typescript/bin/tsc");
  const args = [
    tsc,
    "-p",
    join(root, "tsconfig.build.json"),
    "--incremental",
    "--tsBuildInfoFile",
    "dist/.tsbuildinfo",
  ];
  try {
    await promisify(execFile)(process.execPath, args, { cwd: root });
  } catch (error) {
    const output = error instanceof Error && "stdout" in error ? String(error.stdout) : String(error);
    if (process.env["CI"]) throw new Error(`the build failed:\n${output}`, { cause: error });
    console.error(`The build has errors, so tests of started processes may be wrong:\n${output}`);
  }
}

// Jest runs no teardown when it is interrupted or killed, and the servers are detached on purpose. This process sees
// its standard input close when Jest is gone, however it went.
function startWatchdog(directory: string): RunState["watchdog"] {
  const script = fileURLToPath(new URL("watchdog.mjs", import.meta.url));
  const watchdog = spawn(process.execPath, [script, directory], {
    detached: true,
    stdio: ["pipe", "ignore", "inherit"],
  });
  watchdog.unref();
  return watchdog;
}
