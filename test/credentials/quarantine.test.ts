import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { aCredential, aTarget, stateOf } from "../registry/builders.ts";
import { DEFAULT_TENANT, type Registry, registry } from "../registry/harness.ts";

let r: Registry;
beforeAll(async () => {
  r = await registry();
});
afterAll(async () => {
  await r[Symbol.asyncDispose]();
});

test("invariant 6: so many stuck credentials quarantine their target, and no fewer, and no other target", async () => {
  const [targetId, other] = [await aTarget(r, { stuck_limit: 2 }), await aTarget(r, { stuck_limit: 2 })];
  const later = r.db.batched<object, unknown>("retry_revocations");
  const fails = async (target: string, stuck: boolean) => {
    const id = await aCredential(r, { targetId: target });
    await r.sql("update credentials set state = 'revoking', revoking_at = now() where id = $1", [id]);
    await later(DEFAULT_TENANT, { id, after_ms: 60_000, error: "no answer", stuck });
    return [await stateOf(r, "targets", targetId), await stateOf(r, "targets", other)];
  };
  expect(await fails(targetId, false)).toEqual(["active", "active"]);
  expect(await fails(targetId, true)).toEqual(["active", "active"]);
  expect(await fails(other, true)).toEqual(["active", "active"]);
  expect(await fails(targetId, false)).toEqual(["active", "active"]);
  expect(await fails(targetId, true)).toEqual(["quarantined", "active"]);
  expect((await r.events(targetId)).at(-1)).toMatchObject({ type: "target.updated", actor: "mayfly:worker" });
});
