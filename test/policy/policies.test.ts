import { afterAll, beforeAll, expect, test } from "@jest/globals";
import fc from "fast-check";
import { compile } from "../../src/policy/compile.ts";
import { decide } from "../../src/policy/engine.ts";
import { createPolicies } from "../../src/policy/policies.ts";
import { publishPolicies } from "../../src/policy/publish-policies.ts";
import { DEFAULT_TENANT, type Registry, registry } from "../registry/harness.ts";
import { anInput } from "./fixtures.ts";
import { someInput } from "./random-policies.ts";

let r: Registry;
beforeAll(async () => {
  r = await registry();
});
afterAll(async () => {
  await r[Symbol.asyncDispose]();
});

const acting = { tenantId: DEFAULT_TENANT, actor: "alice" };
const permitUpTo = (seconds: number): string =>
  `@id("up-to-${seconds}") permit (principal, action, resource) when { context.ttl_seconds <= ${seconds} };`;

test("a decision that is remembered is the decision that would be made", async () => {
  const texts = [
    permitUpTo(100),
    permitUpTo(200),
    `${permitUpTo(200)} @id("r") forbid (principal, action == Action::"read", resource);`,
  ];
  const sets = [];
  for (const text of texts) {
    const { policy_version: version } = await publishPolicies(r.db, acting, { text, note: "" });
    sets.push({ version, compiled: compile({ tenantId: DEFAULT_TENANT, version, text }) });
  }
  const policies = createPolicies(r.db);
  const ttls = [50, 100, 101, 200, 201];
  const inputs = fc.sample(someInput, 60).flatMap((input) => ttls.map((ttlSeconds) => ({ ...input, ttlSeconds })));
  const allowed = new Set<number>();
  for (const input of [...inputs, ...inputs, anInput({ ttlSeconds: 100 })]) {
    for (const { version, compiled } of sets) {
      const decision = (await policies.at(DEFAULT_TENANT, version)).decide(structuredClone(input));
      expect(decision).toEqual(decide(compiled, input));
      if (decision.outcome === "allow") allowed.add(version);
    }
  }
  expect(allowed.size).toBe(texts.length);
});
