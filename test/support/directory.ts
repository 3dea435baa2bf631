import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A directory of one test's own: `await using directory = await testDirectory()`. */
export interface TestDirectory extends AsyncDisposable {
  readonly path: string;
}

/**
 * An empty directory inside the run's own, removed when disposed. Processes that work in it are ended when the run is
 * interrupted.
 */
export async function testDirectory(): Promise<TestDirectory> {
  const path = await mkdtemp(join(process.env["TEST_RUN_DIRECTORY"] ?? tmpdir(), "test-"));
  // PostgreSQL is another user when the tests run as root.
  await chmod(path, 0o711);
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}
