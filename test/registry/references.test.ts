import { expect, test } from "@jest/globals";
import { newId } from "../../src/lib/ids.ts";
import { requireReference } from "../../src/registry/references.ts";
import { anActiveAgent, anApprovedPurpose, aResource, aTask } from "./builders.ts";
import { DEFAULT_TENANT, registry } from "./harness.ts";
import { someoneWaits } from "./mint-in-flight.ts";

test("what is being referred to at this moment is not removed: the removal waits, looks, and is refused", async () => {
  await using r = await registry();
  const resource = await aResource(r);
  const { tenantId, subject } = { tenantId: DEFAULT_TENANT, subject: "test" };
  const removing = await r.db.withTenant({ tenantId, actor: subject }, async (tx) => {
    await requireReference(tx, tenantId, "resource", resource, "/subject");
    const answer = r.ask("admin", "DELETE", `/v1/resources/${resource}`, { ifMatch: '"1"' });
    await someoneWaits(r);
    await tx
      .insertInto("relationships")
      .values({ tenant_id: tenantId, id: newId("relationship"), subject: resource, relation: "in", object: "ticket:1" })
      .execute();
    return { answer };
  });
  const got = await removing.answer;
  expect([got.status, got.json.detail]).toEqual([409, expect.stringMatching(/^relationships still refer/)]);
});

test("an agent with a task is not removed, whatever became of the task", async () => {
  await using r = await registry();
  const agent_id = await anActiveAgent(r);
  const task = await aTask(r, agent_id, await anApprovedPurpose(r, { agent_id }));
  await r.sql("update tasks set state = 'ended', outcome = 'completed', ended_at = now() where id = $1", [task]);
  const got = await r.ask("admin", "DELETE", `/v1/agents/${agent_id}`, { ifMatch: '"2"' });
  expect([got.status, got.json.code]).toEqual([409, "conflict"]);
});
