import { afterAll, beforeAll } from "@jest/globals";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "../../src/db/embedded.ts";
import { migrate } from "../../src/db/migrate.ts";
import { provisionDatabase } from "../../src/db/provision.ts";
import { testDirectory } from "./directory.ts";
import { type Postmaster, postmasterOf } from "./postmaster.ts";
import { TEMPLATE } from "./run-state.ts";

/**
 * A PostgreSQL server of one test file's own: the one that all suites share must not be stopped under them. `durable`: what it
 * has committed survives that it is killed.
 */
export function ownServer(durable = false): Postmaster & { stop(): Promise<void>; start(): Promise<void> } {
  let directory: Awaited<ReturnType<typeof testDirectory>>;
  let server: EmbeddedPostgres;
  let postmaster: Postmaster;
  const start = async (): Promise<void> => {
    server = await startEmbeddedPostgres({ directory: directory.path, durable });
  };
  beforeAll(async () => {
    directory = await testDirectory();
    postmaster = postmasterOf(directory.path);
    await start();
    process.env["TEST_POSTGRES_SUPERUSER_URL"] = server.superuserUrl;
    const { ownerUrl } = await provisionDatabase(server.superuserUrl, TEMPLATE);
    await migrate(ownerUrl);
  });
  afterAll(async () => {
    await server.stop();
    await directory[Symbol.asyncDispose]();
  });
  return {
    start,
    stop: () => server.stop(),
    kill: () => postmaster.kill(),
    quit: () => postmaster.quit(),
    freeze: () => postmaster.freeze(),
    thaw: () => postmaster.thaw(),
  };
}
