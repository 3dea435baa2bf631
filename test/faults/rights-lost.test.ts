import { expect, test } from "@jest/globals";
import { startFleet } from "../support/fleet.ts";
import { until } from "../support/until.ts";

const LIMIT = 5;

test("an admin that lost its rights: the target is quarantined at its limit, says why, and is back without an operator", async () => {
  await using fleet = await startFleet({ MAYFLY_RECONCILE_SECONDS: "10" });
  const api = await fleet.start("api");
  await fleet.start("worker");
  const taskId = await fleet.openTask(api);
  const minted: string[] = [];
  for (let index = 0; index < LIMIT + 2; index += 1) {
    const answer = await fleet.mint(api, taskId, 300);
    expect(answer?.status).toBe(201);
    minted.push(answer?.body.credential.id);
  }
  const [{ id: targetId }] = await fleet.sql("select id from mayfly.targets where name = 'tickets-db'");
  const state = async (): Promise<string> =>
    (await fleet.call(api, "admin", "GET", `/v1/targets/${targetId}`))?.body.state;

  await fleet.target.mayMakeRoles(false);
  for (const id of minted.slice(0, LIMIT))
    await fleet.call(api, "orchestrator", "POST", `/v1/credentials/${id}/revoke`);
  await until("it is quarantined", async () => (await state()) === "quarantined", 120_000);
  const refused = await fleet.mint(api, taskId, 300);
  expect([refused?.status, refused?.body.reasons.map((reason: { code: string }) => reason.code)]).toEqual([
    403,
    ["target_quarantined"],
  ]);
  // The owner sees which, why and what happens next.
  const stuck = await fleet.call(api, "auditor", "GET", `/v1/credentials/${minted[0]}`);
  expect(stuck?.body).toMatchObject({
    state: "revoking",
    stuck: true,
    last_error: expect.stringContaining("42501"),
    next_try_at: expect.any(String),
  });
  // Nothing was said to be dead that is not.
  expect(await fleet.target.roles()).toHaveLength(LIMIT + 2);

  await fleet.target.mayMakeRoles(true);
  await until("it is active again", async () => (await state()) === "active", 180_000);
  expect((await fleet.mint(api, taskId, 300))?.status).toBe(201);
  await fleet.call(api, "orchestrator", "POST", `/v1/tasks/${taskId}/end`, { outcome: "completed" });
  expect(await fleet.assertAllDead()).toHaveLength(LIMIT + 3);
}, 400_000);
