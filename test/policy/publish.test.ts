import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { publishPolicies } from "../../src/policy/publish-policies.ts";
import { DEFAULT_TENANT, type Registry, registry } from "../registry/harness.ts";

let r: Registry;
beforeAll(async () => {
  r = await registry();
});
afterAll(async () => {
  await r[Symbol.asyncDispose]();
});

const text = '@id("open") permit (principal, action, resource);';

test("of policies published at the same moment each gets a version of its own, and the last one is active", async () => {
  const acting = { tenantId: DEFAULT_TENANT, actor: "alice" };
  const published = await Promise.all(
    Array.from({ length: 8 }, (_, n) => publishPolicies(r.db, acting, { text, note: `${n}` })),
  );
  const versions = published.map(({ policy_version }) => policy_version).toSorted((a, b) => a - b);
  expect(versions).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  const active = await r.sql<{ policy_version: number }>("select policy_version from policy_sets where active");
  expect(active).toEqual([{ policy_version: 8 }]);
});
