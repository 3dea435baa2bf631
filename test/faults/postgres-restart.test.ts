import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import pg from "pg";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "../../src/db/embedded.ts";
import { migrate } from "../../src/db/migrate.ts";
import { provisionDatabase } from "../../src/db/provision.ts";
import { testDirectory } from "../support/directory.ts";
import { startFleet } from "../support/fleet.ts";
import { TEMPLATE } from "../support/run-state.ts";
import { until } from "../support/until.ts";
import { endIt, mintSome } from "./queue.ts";

// A server of this file's own: the one that all suites share must not be restarted under them.
let directory: Awaited<ReturnType<typeof testDirectory>>;
let server: EmbeddedPostgres;
const start = () => startEmbeddedPostgres({ directory: join(directory.path, "postgres"), durable: false });

beforeAll(async () => {
  directory = await testDirectory();
  server = await start();
  process.env["TEST_POSTGRES_SUPERUSER_URL"] = server.superuserUrl;
  const { ownerUrl } = await provisionDatabase(server.superuserUrl, TEMPLATE);
  await migrate(ownerUrl);
});
afterAll(async () => {
  await server.stop();
  await directory[Symbol.asyncDispose]();
});

test("while Postgres is away no mint succeeds, no process dies, and afterwards everything goes on and everything dies", async () => {
  await using fleet = await startFleet();
  const api = await fleet.start("serve");
  const { taskId } = await mintSome(fleet, api);
  await server.stop();
  const refused = await fleet.mint(api, taskId, 60);
  expect(refused?.status).toBe(503);
  expect(refused?.body).toMatchObject({ code: "unavailable", retryable: true });
  server = await start();
  const again = await until("mints go on", async () => {
    const minted = await fleet.mint(api, taskId, 60);
    return minted?.status === 201 && minted;
  });
  const client = new pg.Client({ ...again.body.secret, user: again.body.secret.username });
  await client.connect();
  expect((await client.query("select id from tickets")).rows).toEqual([{ id: 7 }]);
  await client.end();
  await endIt(fleet, api, taskId);
  const ledger = await fleet.assertAllDead();
  expect(ledger.length).toBeGreaterThanOrEqual(17);
}, 180_000);
