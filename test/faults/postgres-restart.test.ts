import { expect, test } from "@jest/globals";
import pg from "pg";
import { startFleet } from "../support/fleet.ts";
import { ownServer } from "../support/own-server.ts";
import { until } from "../support/until.ts";
import { endIt, mintSome } from "./queue.ts";

const server = ownServer();

test("while Postgres is away no mint succeeds, no process dies, and afterwards everything goes on and everything dies", async () => {
  await using fleet = await startFleet();
  const api = await fleet.start("serve");
  const { taskId } = await mintSome(fleet, api);
  await server.stop();
  const refused = await fleet.mint(api, taskId, 60);
  expect(refused?.status).toBe(503);
  expect(refused?.body).toMatchObject({ code: "unavailable", retryable: true });
  await server.start();
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
