import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { checkRecords, type Lifetime, lifetime } from "../../src/credentials/check-records.ts";
import type { MintFacts, MintRequest, ResourceFacts } from "../../src/credentials/mint-facts.ts";
import type { Delegation, Parent } from "../../src/delegation/delegation.ts";
import type { Principal } from "../../src/identity/principal.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { type Id, newId } from "../../src/lib/ids.ts";
import { classifications, environments } from "../../src/policy/request.ts";

const CHAINS = 20_000;
const LINKS = 6;

const agents = Array.from({ length: 5 }, () => newId("agent"));
const targets = Array.from({ length: 2 }, () => newId("target"));
const actions = ["read", "write", "close"] as const;
// One of each class, and two environments: enough that every dimension can widen.
const resources: readonly ResourceFacts[] = Array.from({ length: 6 }, (_, index) => ({
  asked: `r${index}`,
  id: newId("resource"),
  name: `r${index}`,
  kind: "table",
  classification: classifications[index % classifications.length] ?? "public",
  environment: environments[index === 5 ? 1 : 0],
  risk: "low",
  groups: [],
  operations: { read: "read", write: "write", close: "write" },
  access: { read: {}, write: {} },
}));

/** What somebody asks for at one link, drawn at random. */
const link = fc.record({
  agent: fc.nat(agents.length - 1),
  target: fc.constantFrom<number>(0, 0, 0, 0, 1),
  actions: fc.subarray([...actions], { minLength: 1 }),
  resources: fc.subarray([0, 1, 2, 3, 4, 5], { minLength: 1 }),
  reclassified: fc.constantFrom<number>(0, 0, 0, 0, 0, 1),
  ttl: fc.option(fc.integer({ min: 1, max: 3600 }), { nil: undefined }),
  later: fc.integer({ min: 0, max: 400_000 }),
  key: fc.constantFrom<number>(-1, 0, 1, 2, 3, 4, 4, 3, 2, 1),
  delegation: fc.option(fc.record({ depth: fc.integer({ min: 1, max: 5 }), allowed: fc.subarray([0, 1, 2, 3, 4]) }), {
    nil: undefined,
    freq: 6,
  }),
});
/** How many dimensions of a link are left as drawn; the others stay within the parent, or nothing would ever be granted. */
const strays = fc.subarray(["agent", "target", "actions", "resources", "key", "delegation"] as const, { maxLength: 2 });
type Stray = typeof strays extends fc.Arbitrary<(infer T)[]> ? T : never;
type Drawn = typeof link extends fc.Arbitrary<infer T> ? T : never;

function near(drawn: Drawn, parent: Parent, stray: readonly Stray[]): Drawn {
  const keep = (name: Stray): boolean => stray.includes(name);
  const within = <Item>(picked: readonly Item[], all: readonly Item[]): Item[] => {
    const common = picked.filter((item) => all.includes(item));
    return common.length > 0 ? common : all.slice(0, 1);
  };
  const own = agents.indexOf(parent.agent_id);
  const allowed = parent.delegation?.allowed.map(({ sub }) => agents.indexOf(sub)) ?? [];
  const agent = keep("agent") ? drawn.agent : ([...allowed, own][drawn.agent % (allowed.length + 1)] ?? own);
  const reached = resources.flatMap(({ id }, index) => (parent.resource_ids.includes(id) ? [index] : []));
  const depth = (parent.delegation?.max_depth ?? 1) - 1;
  const asked = drawn.delegation;
  return {
    ...drawn,
    agent,
    target: keep("target") ? drawn.target : targets.indexOf(parent.target_id),
    actions: keep("actions")
      ? drawn.actions
      : within(
          drawn.actions,
          [...actions].filter((name) => parent.actions.includes(name)),
        ),
    resources: keep("resources") ? drawn.resources : within(drawn.resources, reached),
    key: keep("key") ? drawn.key : 10 + agent,
    delegation:
      keep("delegation") || asked === undefined
        ? asked
        : depth === 0
          ? undefined
          : { depth: Math.min(asked.depth, depth), allowed: asked.allowed.filter((index) => allowed.includes(index)) },
  };
}

const limits = { maxTtlSeconds: 3600, maxUnrevocableTtlSeconds: 900, defaultTtlSeconds: 600 };
const issuer = { ttlSeconds: { min: 1, max: 3600 }, revocability: "immediate" } as const;

function delegationOf(drawn: Drawn): Delegation | undefined {
  if (drawn.delegation === undefined) return undefined;
  const { depth, allowed } = drawn.delegation;
  return { max_depth: depth, allowed: allowed.map((index) => ({ sub: agents[index] as Id<"agent"> })) };
}

function holderOf(drawn: Drawn): Principal {
  return {
    tenantId: newId("tenant"),
    tenantName: "t",
    subject: agents[drawn.agent] as string,
    roles: ["agent"],
    generation: 1,
    agentId: agents[drawn.agent] as Id<"agent">,
    binding: "bearer",
    ...(drawn.key < 0 ? {} : { confirmation: { jkt: `key-${drawn.key}` } }),
  };
}

/** The records of a mint in which nothing but the parent can be in the way. */
function factsOf(drawn: Drawn, parent: Parent | null, nowMs: number): MintFacts {
  const agentId = agents[drawn.agent] as Id<"agent">;
  const far = nowMs + 86_400_000;
  const taskId = newId("task");
  return {
    generation: 1,
    now_ms: nowMs,
    tenant_state: "active",
    policy_version: 1,
    signing_kid: null,
    agent: {
      id: agentId,
      kind: "agent",
      name: "a",
      environment: "production",
      state: "active",
      owner_id: newId("owner"),
      owner_status: "active",
      bearer_ttl_seconds: 3600,
    },
    task: {
      id: taskId,
      agent_id: agentId,
      state: "open",
      deadline_ms: far,
      heartbeat_due_ms: null,
      initiated_by: { kind: "human", id: "alice" },
      max_credentials: null,
      max_per_minute: null,
      max_live_seconds: null,
      issued: 0,
      issued_live_seconds: 0,
      issued_in_minute: 0,
    },
    purpose: {
      id: newId("purpose"),
      name: "p",
      state: "approved",
      agent_id: agentId,
      actions: [...actions],
      resource_ids: resources.map(({ id }) => id),
      data_classes: [...classifications],
      environments: [...environments],
      max_ttl_seconds: 3600,
      expires_ms: far,
      review_by_ms: far,
    },
    target: {
      id: targets[drawn.target] as Id<"target">,
      name: "t",
      issuer: "jwt",
      state: "active",
      owner_status: "active",
      max_ttl_seconds: 3600,
      version: 1,
    },
    parent,
    // A resource may have become more sensitive since the parent was minted.
    resources: drawn.resources.map((index) => {
      const resource = resources[index] as ResourceFacts;
      return drawn.reclassified === 0 ? resource : { ...resource, classification: "restricted" };
    }),
    relationships: [],
  };
}

const NO_LIMIT = {
  max_credentials: null,
  max_per_minute: null,
  max_live_seconds: null,
  issued: 0,
  issued_live_seconds: 0,
  issued_in_minute: 0,
};

/** The row that a mint would leave, as the next one would read it. */
function rowOf(drawn: Drawn, facts: MintFacts, life: Lifetime, parent: Parent | null, dataClass: string): Parent {
  const id = newId("credential");
  const holder = holderOf(drawn);
  return {
    id,
    agent_id: holder.agentId as Id<"agent">,
    active: true,
    expires_ms: life.expiresMs,
    actions: drawn.actions,
    resource_ids: facts.resources.map((resource) => resource.id),
    data_class: dataClass as Parent["data_class"],
    environment: facts.resources[0]?.environment ?? "staging",
    confirmation: holder.confirmation === undefined ? null : { ...holder.confirmation },
    target_id: facts.target?.id as Id<"target">,
    delegation: delegationOf(drawn) ?? null,
    chain: [
      ...(parent?.chain ?? []),
      { id, agent_id: holder.agentId as Id<"agent">, task_id: facts.task?.id as Id<"task">, budget: NO_LIMIT },
    ],
  };
}

/**
 * What a credential lets be done, told in another way than the code under test tells it: every single thing, one by
 * one, as a set. Narrowing is then nothing but being a subset.
 */
function powers(row: Parent): Set<string> {
  const rank = (name: string): number => classifications.indexOf(name as (typeof classifications)[number]);
  const all = new Set<string>();
  for (const action of row.actions)
    for (const resource of row.resource_ids)
      all.add(`may ${action} ${resource} by ${row.target_id} in ${row.environment}`);
  for (let rank_ = 0; rank_ <= rank(row.data_class); rank_ += 1) all.add(`sees class ${rank_}`);
  if (row.confirmation === null) all.add("used without a key");
  return all;
}

/** What it lets be passed on: one string for each agent at each distance. */
function reach(row: Parent): Set<string> {
  const all = new Set<string>();
  for (let depth = 1; depth <= (row.delegation?.max_depth ?? 0); depth += 1) {
    all.add(`depth ${depth}`);
    for (const { sub } of row.delegation?.allowed ?? []) all.add(`to ${sub} at ${depth}`);
  }
  return all;
}

const isWithin = (child: Set<string>, parent: Set<string>): boolean => [...child].every((power) => parent.has(power));

describe("invariant 7: authority only narrows along a chain", () => {
  test(`${CHAINS} random chains never widen and never outlive; and what only narrows is granted`, () => {
    const seen = { granted: 0, refused: 0, deepest: 0 };
    fc.assert(
      fc.property(fc.array(fc.tuple(link, strays), { minLength: 2, maxLength: LINKS }), (drawn) => {
        let now = 1_800_000_000_000;
        let parent: Parent | null = null;
        for (const [wish, stray] of drawn) {
          const step: Drawn = parent === null ? wish : near(wish, parent, stray);
          now += parent === null ? 0 : step.later;
          const given: Parent | null = parent === null ? null : { ...parent, active: parent.expires_ms > now };
          const facts = factsOf(step, given, now);
          const request: MintRequest = {
            task_id: facts.task?.id as Id<"task">,
            target: "t",
            actions: step.actions,
            resources: facts.resources.map(({ asked }) => asked),
            ttl_seconds: step.ttl,
            delegation: delegationOf(step),
            ...(given === null ? {} : { parent_credential_id: given.id }),
          };
          const outcome = attempt(facts, request, step);
          if (given === null) {
            if (outcome === undefined) continue;
            parent = rowOf(step, facts, outcome.life, null, outcome.dataClass);
            continue;
          }
          const highest = facts.resources.reduce(
            (most, { classification }) => Math.max(most, classifications.indexOf(classification)),
            0,
          );
          const child = rowOf(
            step,
            facts,
            outcome?.life ?? { ttlSeconds: 0, expiresMs: 0, bound: "" },
            given,
            classifications[highest] ?? "",
          );
          const holder = holderOf(step);
          const admitted =
            given.active &&
            given.delegation !== null &&
            (given.agent_id === holder.agentId || given.delegation.allowed.some(({ sub }) => sub === holder.agentId)) &&
            !(
              given.agent_id !== holder.agentId &&
              given.confirmation !== null &&
              JSON.stringify(given.confirmation) === JSON.stringify(holder.confirmation)
            );
          const narrower =
            isWithin(powers(child), powers(given)) &&
            facts.resources.every(({ environment }) => environment === given.environment) &&
            // One link nearer the end: what it passes on at distance n, its parent passed on at n + 1.
            isWithin(new Set([...reach(child)].map(oneFarther)), reach(given));
          // Not expect(): a hundred thousand of them take longer than what they look at.
          if ((outcome !== undefined) !== (admitted && narrower))
            throw new Error(`granted: ${outcome !== undefined}, admitted: ${admitted}, narrower: ${narrower}`);
          seen[outcome === undefined ? "refused" : "granted"] += 1;
          if (outcome === undefined) continue;
          if (child.expires_ms > given.expires_ms) throw new Error("the child outlives its parent");
          parent = child;
          seen.deepest = Math.max(seen.deepest, child.chain.length);
        }
      }),
      { numRuns: CHAINS },
    );
    // Both sides of the rule were really tried.
    expect(seen.granted).toBeGreaterThan(CHAINS / 4);
    expect(seen.refused).toBeGreaterThan(CHAINS / 4);
    expect(seen.deepest).toBeGreaterThan(3);
  });
});

function oneFarther(power: string): string {
  return power.replace(/\d+$/, (depth) => String(Number(depth) + 1));
}

function attempt(
  facts: MintFacts,
  request: MintRequest,
  step: Drawn,
): { readonly life: Lifetime; readonly dataClass: string } | undefined {
  try {
    const checked = checkRecords(facts, request, holderOf(step));
    return { life: lifetime(checked, request.ttl_seconds, undefined, limits, issuer), dataClass: checked.dataClass };
  } catch (error) {
    if (error instanceof MayflyError && (error.code === "denied" || error.code === "not_found")) return undefined;
    throw error;
  }
}
