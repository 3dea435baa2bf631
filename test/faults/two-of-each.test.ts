import { expect, test } from "@jest/globals";
import { startFleet } from "../support/fleet.ts";
import { mintSome } from "./queue.ts";

test("two APIs and two workers on one credential, one task and one second: each dies once", async () => {
  await using fleet = await startFleet();
  const [a, b] = await Promise.all([fleet.start("api"), fleet.start("api")]);
  await Promise.all([fleet.start("worker"), fleet.start("worker")]);

  // One second: everything minted here ends in the same one, in whichever process it was minted.
  const tasks = await Promise.all([mintSome(fleet, a), mintSome(fleet, b)]);

  // One credential: taken back fifty times at once.
  const taskId = await fleet.openTask(a);
  const minted = await fleet.mint(a, taskId, 300);
  const id = minted?.body.credential.id;
  const revokes = await Promise.all(
    Array.from({ length: 50 }, (_, n) =>
      fleet.call(n % 2 === 0 ? a : b, "orchestrator", "POST", `/v1/credentials/${id}/revoke`),
    ),
  );
  expect(new Set(revokes.map((answer) => answer?.status))).toEqual(new Set([200]));

  // One task: ended from both sides, with mints in between.
  for (const task of [...tasks, { taskId }]) {
    const answers = await Promise.all([
      fleet.call(a, "orchestrator", "POST", `/v1/tasks/${task.taskId}/end`, { outcome: "completed" }),
      fleet.mint(b, task.taskId, 300),
      fleet.call(b, "orchestrator", "POST", `/v1/tasks/${task.taskId}/end`, { outcome: "failed" }),
      fleet.mint(a, task.taskId, 300),
    ]);
    for (const answer of answers) expect([200, 201, 403]).toContain(answer?.status);
  }
  const ledger = await fleet.assertAllDead();
  expect(ledger.length).toBeGreaterThanOrEqual(33);
}, 180_000);
