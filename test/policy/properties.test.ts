import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { withCedar } from "../../src/policy/cedar.ts";
import { decide } from "../../src/policy/engine.ts";
import type { PolicyAction, PolicyInput } from "../../src/policy/request.ts";
import { cedarSchema } from "../../src/policy/schema.ts";
import { compiled } from "./fixtures.ts";
import { decidedNaively } from "./oracle.ts";
import { type RandomPolicy, someInput, somePolicies, toText } from "./random-policies.ts";

const named = (policies: readonly RandomPolicy[]) => policies.map((policy, i) => [`p-${i}`, policy] as const);
// Several requests for each set of policies: making a set ready takes far longer than deciding.
const someInputs = fc.array(someInput, { minLength: 3, maxLength: 3 });
const rank = { deny: 0, allow_if: 1, allow: 2 };

/** The whole set, unsliced, handed every fact there is, which Cedar checks against the schema. */
function judgedWhole(input: PolicyInput, action: PolicyAction) {
  const { agent, purpose, task, target } = input;
  const { id, groups, ...resource } = action.resource;
  const group = (name: string) => ({ type: "Group", id: name });
  const answer = withCedar((cedar) =>
    cedar.statefulIsAuthorized({
      principal: { type: "Agent", id: agent.id },
      action: { type: "Action", id: action.actionClass },
      resource: { type: "Resource", id },
      context: {
        operation: action.operation,
        data_class: resource.classification,
        environment: resource.environment,
        ttl_seconds: input.ttlSeconds,
        binding: input.binding,
        delegation_depth: input.delegationDepth,
        approvals: [...input.approvals],
        purpose: { id: purpose.id, name: purpose.name, max_ttl_seconds: purpose.maxTtlSeconds },
        task: { id: task.id, initiated_by: task.initiatedBy },
        target: { ...target },
      },
      entities: [
        {
          uid: { type: "Agent", id: agent.id },
          attrs: {
            kind: agent.kind,
            name: agent.name,
            environment: agent.environment,
            owner: agent.ownerId,
            relations: input.relationships.map(({ relation, object }) => ({ relation, object })),
          },
          parents: input.relationships.map(({ object }) => group(object)),
        },
        { uid: { type: "Resource", id }, attrs: resource, parents: groups.map(group) },
      ],
      preparsedPolicySetId: "whole",
      preparsedSchemaName: "whole",
      validateRequest: true,
    }),
  );
  if (answer.type === "failure") throw new Error(answer.errors.map(({ message }) => message).join());
  return answer.response;
}

describe("random policies and requests", () => {
  test("a decision is what the policies say one by one", () => {
    const outcomes = new Map<string, number>();
    fc.assert(
      fc.property(somePolicies, someInputs, (policies, inputs) => {
        const policySet = compiled(toText(named(policies)));
        for (const input of inputs) {
          const expected = decidedNaively(named(policies), input);
          const { outcome, ttlSeconds, reasons } = decide(policySet, input);
          const codes = reasons.map(({ code, policy, remedy }) => [code, policy, remedy].filter(Boolean).join(" "));
          expect({ outcome, ttlSeconds, codes: codes.sort() }).toEqual(expected);
          const kind = outcome === "deny" ? codes[0]?.split(" ")[0] : outcome;
          outcomes.set(kind ?? "", (outcomes.get(kind ?? "") ?? 0) + 1);
        }
      }),
      { numRuns: 1_000 },
    );
    // The property says something only if every kind of answer was seen often.
    for (const kind of ["allow", "allow_if", "policy_error", "policy_forbidden", "policy_no_permit"]) {
      expect([kind, (outcomes.get(kind) ?? 0) > 50]).toEqual([kind, true]);
    }
  });

  test("slices that are asked only what they mention answer as the whole set that is told everything", () => {
    withCedar((cedar) => cedar.preparseSchema("whole", cedarSchema));
    fc.assert(
      fc.property(somePolicies, someInputs, (policies, inputs) => {
        const ids = named(policies);
        const staticPolicies = Object.fromEntries(ids.map(([id, policy]) => [id, toText([[id, policy]])]));
        withCedar((cedar) => cedar.preparsePolicySet("whole", { staticPolicies }));
        // Without remedies a decision is one judgement, with nothing done about it.
        const policySet = compiled(toText(ids.map(([id, policy]) => [id, { ...policy, remedy: undefined }])));
        for (const input of inputs) {
          for (const action of input.actions) {
            const { decision, diagnostics } = judgedWhole(input, action);
            const decided = decide(policySet, { ...input, actions: [action] });
            if (diagnostics.errors.length > 0) {
              expect(decided.reasons.map(({ code }) => code)).toContain("policy_error");
              expect(decided.determining).toEqual(diagnostics.errors.map(({ policyId }) => policyId).sort());
            } else {
              expect(decided.outcome).toBe(decision);
              expect(decided.determining).toEqual([...diagnostics.reason].sort());
            }
          }
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test("the order of policies does not matter", () => {
    fc.assert(
      fc.property(somePolicies, someInputs, fc.infiniteStream(fc.nat()), (policies, inputs, random) => {
        const keyed = named(policies).map((policy) => ({ policy, key: random.next().value }));
        const shuffled = compiled(toText(keyed.sort((a, b) => a.key - b.key).map(({ policy }) => policy)));
        const ordered = compiled(toText(named(policies)));
        for (const input of inputs) expect(decide(shuffled, input)).toEqual(decide(ordered, input));
      }),
      { numRuns: 100 },
    );
  });

  test("taking a permit away never widens", () => {
    let narrowed = 0;
    fc.assert(
      fc.property(somePolicies, someInputs, fc.nat(), (policies, inputs, pick) => {
        const permits = named(policies).filter(([, { effect }]) => effect === "permit");
        const removed = permits[pick % Math.max(permits.length, 1)];
        const whole = compiled(toText(named(policies)));
        const fewer = compiled(toText(named(policies).filter(([id]) => id !== removed?.[0])));
        for (const input of inputs) {
          const before = decide(whole, input);
          const after = decide(fewer, input);
          // A permit that errs denies, so taking that one away may widen.
          if (before.reasons.some(({ code }) => code === "policy_error")) continue;
          expect(rank[after.outcome]).toBeLessThanOrEqual(rank[before.outcome]);
          if (rank[after.outcome] < rank[before.outcome]) narrowed++;
        }
      }),
      { numRuns: 200 },
    );
    expect(narrowed).toBeGreaterThan(10);
  });

  test("what was allowed is allowed again as it was finally judged, and says so with the same hash", () => {
    fc.assert(
      fc.property(somePolicies, someInputs, (policies, inputs) => {
        const policySet = compiled(toText(named(policies)));
        for (const input of inputs) {
          const first = decide(policySet, input);
          expect(first.ttlSeconds).toBeLessThanOrEqual(input.ttlSeconds);
          if (first.outcome !== "allow") continue;
          const again = decide(policySet, structuredClone(first.input));
          expect([again.outcome, again.input, again.inputHash]).toEqual(["allow", first.input, first.inputHash]);
        }
      }),
      { numRuns: 100 },
    );
  });

  test("allow_if is a promise: with what it names, the answer is allow", () => {
    let promises = 0;
    fc.assert(
      fc.property(somePolicies, someInputs, (policies, inputs) => {
        const policySet = compiled(toText(named(policies)));
        for (const input of inputs) {
          const { outcome, reasons, ttlSeconds } = decide(policySet, input);
          if (outcome !== "allow_if") continue;
          promises++;
          const remedies = reasons.map(({ remedy }) => remedy ?? "");
          const approvals = remedies
            .filter((remedy) => remedy.startsWith("approval:"))
            .map((remedy) => remedy.slice(9));
          const given: PolicyInput = {
            ...input,
            ttlSeconds,
            approvals: [...input.approvals, ...approvals],
            binding: remedies.includes("dpop") ? "dpop" : input.binding,
          };
          expect(decide(policySet, given).outcome).toBe("allow");
        }
      }),
      { numRuns: 200 },
    );
    expect(promises).toBeGreaterThan(10);
  });
});
