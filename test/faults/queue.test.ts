import { describe, expect, test } from "@jest/globals";
import { startFleet } from "../support/fleet.ts";
import { endIt, mintSome } from "./queue.ts";

describe("invariant 5: the queue is only promptness (on Postgres)", () => {
  test("with the queue's tables emptied under the running processes, everything dies", async () => {
    await using fleet = await startFleet();
    const api = await fleet.start("serve");
    const { taskId } = await mintSome(fleet, api);
    const tables = await fleet.sql(
      "select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname = 'bullmq'",
    );
    expect(tables.length).toBeGreaterThan(0);
    await fleet.sql(`truncate ${tables.map((table) => table.name).join(", ")}`);
    await endIt(fleet, api, taskId);
    expect(await fleet.assertAllDead()).toHaveLength(16);
  }, 120_000);

  test("with the queue's schema dropped and every process killed and started again, everything dies", async () => {
    await using fleet = await startFleet();
    const api = await fleet.start("serve");
    await mintSome(fleet, api);
    await api.kill();
    await fleet.sql(
      "drop schema bullmq cascade; create schema bullmq; grant usage, create on schema bullmq to mayfly_runtime",
    );
    const again = await fleet.start("serve");
    await fleet.call(again, "admin", "POST", "/v1/revocations", {
      selector: { everything: true },
      reason: "after the crash",
    });
    expect(await fleet.assertAllDead()).toHaveLength(16);
  }, 120_000);

  test("without any queue the sweep alone ends everything", async () => {
    await using fleet = await startFleet({ MAYFLY_QUEUE: "none" });
    const api = await fleet.start("serve");
    const { taskId } = await mintSome(fleet, api);
    await endIt(fleet, api, taskId);
    expect(await fleet.assertAllDead()).toHaveLength(16);
  }, 120_000);
});
