import { expect, test } from "@jest/globals";
import { startFleet } from "../support/fleet.ts";

test("invariant 3: a secret whose credential was taken back while the far side made it is handed to nobody", async () => {
  // Longer than all that is done meanwhile.
  await using fleet = await startFleet({ MAYFLY_MINT_TIMEOUT_SECONDS: "10" });
  const api = await fleet.start("api");
  const taskId = await fleet.openTask(api);
  const held = fleet.wire.hold("login password");
  const minting = fleet.mint(api, taskId, 60);
  await held;
  const ended = await fleet.call(api, "orchestrator", "POST", `/v1/tasks/${taskId}/end`, { outcome: "cancelled" });
  expect(ended?.status).toBe(200);
  fleet.wire.pass();

  const answer = await minting;
  // It was made, and by our word alone nobody has it.
  expect(await fleet.target.roles()).toHaveLength(1);
  expect(answer).toMatchObject({ status: 403, body: { code: "denied", reasons: [{ code: "taken_back" }] } });
  expect(answer?.body).not.toHaveProperty("secret");
  await fleet.start("worker");
  expect(await fleet.assertAllDead()).toMatchObject([{ state: "failed" }]);
}, 120_000);
