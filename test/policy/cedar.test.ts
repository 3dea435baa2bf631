import { expect, test } from "@jest/globals";
import { CedarFailed, withCedar } from "../../src/policy/cedar.ts";
import { decide } from "../../src/policy/engine.ts";
import { validatePolicies } from "../../src/policy/validate.ts";
import { anInput, compiled } from "./fixtures.ts";

const OPEN = '@id("open") permit (principal, action, resource);';
const withPolicy = (condition: string): string => `permit (principal, action, resource) when { ${condition} };`;
const breakCedar = (): void => {
  const staticPolicies = withPolicy(`${"(".repeat(1_000)}true${")".repeat(1_000)}`);
  expect(() => withCedar((cedar) => cedar.checkParsePolicySet({ staticPolicies }))).toThrow(CedarFailed);
};

test("an instance that threw is replaced, and what was preparsed in it is preparsed again", () => {
  const capAt = (seconds: number) =>
    compiled(`${OPEN} @id("c") forbid (principal, action, resource) when { context.ttl_seconds > ${seconds} };`);
  const [low, high] = [capAt(100), capAt(200)];
  for (let i = 1; i < 6; i++) {
    // Other TTLs each time, so that no answer is remembered; and in another order, so that names would be mixed up.
    const judged = [low, high].map((policies) =>
      [100 + i, 200 - i, i].map((ttlSeconds) => [policies, ttlSeconds] as const),
    );
    for (const [policies, ttlSeconds] of i % 2 === 0 ? judged.flat() : judged.toReversed().flat()) {
      const { outcome, determining } = decide(policies, anInput({ ttlSeconds }));
      expect({ outcome, determining }).toEqual(
        policies === low && ttlSeconds > 100
          ? { outcome: "deny", determining: ["c"] }
          : { outcome: "allow", determining: ["open"] },
      );
    }
    breakCedar();
  }
});

test("publishing a policy that would break Cedar is refused, and breaks nothing", () => {
  const fine = compiled(`${OPEN} @id("c") forbid (principal, action, resource) when { context.ttl_seconds > 5000 };`);
  for (const condition of [
    `${"(".repeat(150)}true${")".repeat(150)}`,
    `${"[".repeat(150)}1${"]".repeat(150)} == []`,
    Array(20_000).fill("true").join("&&"),
    `${"if true then true else ".repeat(9_000)}true`,
    `principal${".name".repeat(40_000)}`,
    "!".repeat(200_000),
    `"${'\\"'.repeat(100_000)}`,
    ")".repeat(1_000) + "(".repeat(1_000),
  ]) {
    expect(validatePolicies(`@id("x") ${withPolicy(condition)}`)).not.toEqual([]);
    expect(decide(fine, anInput({ ttlSeconds: 5_001 })).outcome).toBe("deny");
  }
});

test("a policy at every limit at once is judged", () => {
  const deep = (levels: number): string => (levels === 0 ? "context.ttl_seconds > 0" : `(${deep(levels - 1)})`);
  const chain = Array(82).fill('principal.name != "x"').join(" && ");
  const text = `@id("x") ${withPolicy(`${deep(30)} && ${chain}`)}`;
  expect(validatePolicies(text)).toEqual([]);
  expect(validatePolicies(text.replace("&&", '&& principal.name != "y" &&'))).not.toEqual([]);
  expect(decide(compiled(text), anInput()).outcome).toBe("allow");
});

/** What Cedar was told to preparse since, and how much of it is in its memory under a name. */
function watchPreparsing() {
  const cedar = withCedar((instance) => instance);
  const { preparsePolicySet } = cedar;
  const held = new Map<string, number>();
  const seen = { calls: 0, names: held, most: 0 };
  cedar.preparsePolicySet = (name, policySet) => {
    held.set(name, JSON.stringify(policySet).length);
    seen.calls += 1;
    seen.most = Math.max(
      seen.most,
      [...held.values()].reduce((sum, size) => sum + size, 0),
    );
    return preparsePolicySet(name, policySet);
  };
  return seen;
}

test("more policy sets than fit are judged in turn, each by its own, and never take more memory than they may", () => {
  breakCedar(); // A fresh instance, so that all that it holds is seen.
  const seen = watchPreparsing();
  const sets = Array.from({ length: 30 }, (_, i) => {
    // Comments count as text but cost Cedar little. Of two sizes, so that one that goes makes room for several.
    const comment = `// ${"x".repeat(i % 3 === 0 ? 250_000 : 100_000)}\n`;
    const own = `context.ttl_seconds >= ${i * 1000} && context.ttl_seconds < ${(i + 1) * 1000}`;
    return compiled(`@id("p") permit (principal, ${comment} action, resource) when { ${own} };`);
  });
  // A TTL of its own each time, so that no answer is remembered.
  let asked = 0;
  const outcomeOf = (set: number, range: number) => {
    const policies = sets[set];
    if (policies === undefined) throw new Error("there is no such set");
    return decide(policies, anInput({ ttlSeconds: range * 1000 + asked++ })).outcome;
  };
  for (let round = 0; round < 2; round++) {
    for (let i = 0; i < sets.length; i++) {
      expect([i, outcomeOf(i, i), outcomeOf(i, i + 1)]).toEqual([i, "allow", "deny"]);
      // Those asked a while ago are still there, without being preparsed again, and must not have become this one.
      const { calls } = seen;
      for (const before of [0, i - 3, i - 2, i - 1].filter((set) => set >= 0 && set < i)) {
        expect([i, before, outcomeOf(before, before)]).toEqual([i, before, "allow"]);
      }
      expect(seen.calls).toBe(calls);
    }
  }
  expect(seen.names.size).toBeLessThan(sets.length);
  expect(seen.most).toBeLessThan(4.1 * 1024 * 1024);
});
