import { describe, expect, test } from "@jest/globals";
import { type Fleet, startFleet } from "../support/fleet.ts";
import { until } from "../support/until.ts";

/** The text of the statement that makes the role, and of those that take it away, as the wire sees them. */
const CREATE = "login password";
const NOLOGIN = "nologin";
const DROP = "drop role";

// The claim of a dead worker runs out after a while, as does the last moment of a create: the tests wait for that together.
// What comes before must be done before a mint gives up, so it is one test's turn at a time.
const PATIENCE_MS = 300_000;
let turn: Promise<unknown> = Promise.resolve();
function inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
  const mine = turn.then(work);
  turn = mine.catch(() => undefined);
  return mine;
}

/** Kills in a fleet of its own, starts another worker, and looks at what that one makes of it. */
function crash(name: string, kill: (fleet: Fleet) => Promise<void>, after: (fleet: Fleet) => Promise<void>): void {
  test.concurrent(
    name,
    async () => {
      await using fleet = await inTurn(() => startFleet());
      await inTurn(() => kill(fleet));
      await fleet.start("worker");
      await after(fleet);
    },
    PATIENCE_MS,
  );
}

const roleExists = (fleet: Fleet) =>
  until("the role exists in the target", async () => (await fleet.target.roles()).length > 0);
const pending = (fleet: Fleet) =>
  until(
    "the intent is committed",
    async () => (await fleet.sql("select from mayfly.credentials where state = 'pending'")).length === 1,
  );

describe("kill -9 of the API during a mint (invariant 3)", () => {
  crash(
    "before the intent: nothing was done downstream, and what the database still commits is swept",
    async (fleet) => {
      const api = await fleet.start("api");
      const taskId = await fleet.openTask(api);
      const lock = await fleet.lock("lock table mayfly.credentials in access exclusive mode");
      const lost = fleet.mint(api, taskId, 60);
      await fleet.waiting("mint_commit");
      await api.kill();
      await lock.letGo();
      expect(await lost).toBeUndefined();
    },
    async (fleet) => {
      for (const row of await fleet.assertAllDead()) expect(row.state).toBe("failed");
    },
  );

  crash(
    "after the intent, before the target is touched: the row ends as failed",
    async (fleet) => {
      const api = await fleet.start("api");
      const taskId = await fleet.openTask(api);
      const held = fleet.wire.hold(CREATE);
      const lost = fleet.mint(api, taskId, 60);
      await held;
      await pending(fleet);
      await api.kill();
      expect(await lost).toBeUndefined();
    },
    async (fleet) => {
      expect(await fleet.assertAllDead()).toMatchObject([{ state: "failed", state_reason: "mint_abandoned" }]);
      // The packet arrives after all: the target's own guard refuses it (reliability C8).
      await fleet.wire.release();
      expect(await fleet.target.roles()).toEqual([]);
    },
  );

  crash(
    "after the intent, and the create lands after the API is dead: the role is found and removed",
    async (fleet) => {
      const api = await fleet.start("api");
      const taskId = await fleet.openTask(api);
      const held = fleet.wire.hold(CREATE);
      const lost = fleet.mint(api, taskId, 60);
      await held;
      await api.kill();
      expect(await lost).toBeUndefined();
      await fleet.wire.release();
      await roleExists(fleet);
    },
    async (fleet) => {
      expect(await fleet.assertAllDead()).toMatchObject([{ state: "failed" }]);
    },
  );

  crash(
    "after the target answered, before the activation: no secret left, and the credential dies on time",
    async (fleet) => {
      const api = await fleet.start("api");
      const taskId = await fleet.openTask(api);
      const held = fleet.wire.hold(CREATE);
      const lost = fleet.mint(api, taskId, 5);
      await held;
      await pending(fleet);
      const lock = await fleet.lock("select from mayfly.credentials where state = 'pending' for update");
      void fleet.wire.release().catch(() => {});
      await roleExists(fleet);
      await api.kill();
      await lock.letGo();
      expect(await lost).toBeUndefined();
    },
    async (fleet) => {
      expect(await fleet.assertAllDead()).toHaveLength(1);
    },
  );
});

describe("kill -9 of the worker during a revoke (invariant 6)", () => {
  for (const [moment, text] of [
    ["before the log-in is refused", NOLOGIN],
    ["between the end of its sessions and the drop", DROP],
  ] as const) {
    crash(
      `${moment}: another worker finishes, with one receipt`,
      async (fleet) => {
        const api = await fleet.start("api");
        const first = await fleet.start("worker");
        const taskId = await fleet.openTask(api);
        expect((await fleet.mint(api, taskId, 300))?.status).toBe(201);
        const held = fleet.wire.hold(text);
        await fleet.call(api, "orchestrator", "POST", `/v1/tasks/${taskId}/end`, { outcome: "failed" });
        await held;
        await first.kill();
      },
      async (fleet) => {
        expect(await fleet.assertAllDead()).toMatchObject([{ state: "revoked", state_reason: "task_ended" }]);
      },
    );
  }

  crash(
    "after the target is clean, before the receipt is committed: the receipt is written once",
    async (fleet) => {
      const api = await fleet.start("api");
      const first = await fleet.start("worker");
      const taskId = await fleet.openTask(api);
      expect((await fleet.mint(api, taskId, 300))?.status).toBe(201);
      const held = fleet.wire.hold(DROP);
      await fleet.call(api, "orchestrator", "POST", `/v1/tasks/${taskId}/end`, { outcome: "failed" });
      await held;
      const lock = await fleet.lock("select from mayfly.credentials for update");
      void fleet.wire.release().catch(() => {});
      await until("the role is gone", async () => (await fleet.target.roles()).length === 0);
      await first.kill();
      await lock.letGo();
    },
    async (fleet) => {
      expect(await fleet.assertAllDead()).toMatchObject([{ state: "revoked" }]);
    },
  );
});

describe("a process that is asked to stop", () => {
  test("finishes the mint in flight and exits with 0", async () => {
    await using fleet = await startFleet();
    const api = await fleet.start("serve");
    const taskId = await fleet.openTask(api);
    const lock = await fleet.lock("lock table mayfly.credentials in access exclusive mode");
    const minting = fleet.mint(api, taskId, 2);
    await fleet.waiting("mint_commit");
    const stopped = api.stop();
    await until("it has begun to stop", () => api.lines.some((line) => line["msg"] === "stopping"));
    await lock.letGo();
    expect((await minting)?.status).toBe(201);
    expect(await stopped).toBe(0);
    await fleet.start("worker");
    expect(await fleet.assertAllDead()).toHaveLength(1);
  });
});
