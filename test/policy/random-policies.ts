import fc from "fast-check";
import {
  type ActionClass,
  actionClasses,
  classifications,
  environments,
  type PolicyAction,
  type PolicyInput,
  risks,
} from "../../src/policy/request.ts";
import { anAction, anInput } from "./fixtures.ts";

/*
 * Random policies that can be read in two ways: as Cedar text, and by the few lines of TypeScript below, which know
 * nothing of Cedar, of slices or of what is left out of a question.
 */

/** One thing that a condition asks: how Cedar writes it, and what it means. It may throw, as Cedar may. */
export interface Condition {
  readonly text: string;
  readonly holds: (input: PolicyInput, action: PolicyAction) => boolean;
}

/** A policy as data. */
export interface RandomPolicy {
  readonly effect: "permit" | "forbid";
  readonly actions: readonly ActionClass[] | undefined;
  readonly principal: Condition | undefined;
  readonly resource: Condition | undefined;
  readonly when: Condition | undefined;
  readonly unless: Condition | undefined;
  readonly remedy: string | undefined;
}

/** Names that would break out of text if anything were ever built from them. */
export const wildNames = [
  "finance",
  'a"b',
  "back\\slash",
  "*",
  "fin*",
  'Group::"finance"',
  'x", Group::"finance',
  "line\nbreak",
  "nul\u0000",
  "__proto__",
  "{}",
  "🦋",
  "-",
] as const;

const name = fc.constantFrom(...wildNames);
const agentIds = ["agt_1", "agt_2", "-"] as PolicyInput["agent"]["id"][];
const resourceIds = ["res_1", "res_2", "-"] as PolicyAction["resource"]["id"][];

/** A string literal of Cedar. */
export function literal(text: string): string {
  return `"${text.replace(/[^ -~]|["\\]/gu, (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`)}"`;
}

const groupsOf = (input: PolicyInput): string[] => input.relationships.map(({ object }) => object);

const principal: fc.Arbitrary<Condition> = fc.oneof(
  fc.constant({ text: "principal is Agent", holds: () => true }),
  fc.constantFrom(...agentIds).map((id) => ({
    text: `principal == Agent::${literal(id)}`,
    holds: (input: PolicyInput) => input.agent.id === id,
  })),
  name.map((group) => ({
    text: `principal in Group::${literal(group)}`,
    holds: (input: PolicyInput) => groupsOf(input).includes(group),
  })),
);

const resource: fc.Arbitrary<Condition> = fc.oneof(
  fc.constantFrom(...resourceIds).map((id) => ({
    text: `resource == Resource::${literal(id)}`,
    holds: (_: PolicyInput, action: PolicyAction) => action.resource.id === id,
  })),
  name.map((group) => ({
    text: `resource in Group::${literal(group)}`,
    holds: (_: PolicyInput, action: PolicyAction) => action.resource.groups.includes(group),
  })),
);

function equals(text: string, values: readonly string[], read: (i: PolicyInput, a: PolicyAction) => string) {
  return fc.constantFrom(...values).map(
    (value): Condition => ({
      text: `${text} == ${literal(value)}`,
      holds: (input, action) => read(input, action) === value,
    }),
  );
}

const MAX_LONG = 2n ** 63n - 1n;

const atom: fc.Arbitrary<Condition> = fc.oneof(
  principal.filter(({ text }) => !text.includes(" is ")),
  resource,
  equals("principal.environment", environments, ({ agent }) => agent.environment),
  equals("principal.name", wildNames, ({ agent }) => agent.name),
  equals("resource.name", wildNames, (_, action) => action.resource.name),
  equals("resource.risk", risks, (_, action) => action.resource.risk),
  equals("context.data_class", classifications, (_, action) => action.resource.classification),
  equals("context.environment", environments, (_, action) => action.resource.environment),
  equals("context.operation", wildNames, (_, action) => action.operation),
  equals("context.binding", ["bearer", "dpop", "mtls"], ({ binding }) => binding),
  equals("context.target.revocability", ["immediate", "expiry"], ({ target }) => target.revocability),
  equals("context.purpose.name", wildNames, ({ purpose }) => purpose.name),
  equals('context["task"].initiated_by', ["human", "system"], ({ task }) => task.initiatedBy),
  fc.constantFrom(60, 300, 600, 900, 3600).map((seconds) => ({
    text: `context.ttl_seconds > ${seconds}`,
    holds: ({ ttlSeconds }: PolicyInput) => ttlSeconds > seconds,
  })),
  fc.nat(4).map((depth) => ({
    text: `context.delegation_depth >= ${depth}`,
    holds: ({ delegationDepth }: PolicyInput) => delegationDepth >= depth,
  })),
  fc.constantFrom("a", "b").map((by) => ({
    text: `context.approvals.contains("${by}")`,
    holds: ({ approvals }: PolicyInput) => approvals.includes(by),
  })),
  fc.tuple(fc.constantFrom("member", "owner"), name).map(([relation, object]) => ({
    text: `principal.relations.contains({ object: ${literal(object)}, relation: "${relation}" })`,
    holds: ({ relationships }: PolicyInput) =>
      relationships.some((r) => r.relation === relation && r.object === object),
  })),
  fc.constant({
    text: 'resource.name like "fin*"',
    holds: (_: PolicyInput, action: PolicyAction) => action.resource.name.startsWith("fin"),
  }),
  fc.constant({ text: "context has approvals && principal has name", holds: () => true }),
  fc.constant({ text: "context == context && principal != resource", holds: () => true }),
  // What a policy that strict validation lets pass can still do wrong.
  fc.constant({
    text: `context.ttl_seconds * ${MAX_LONG} > 0`,
    holds: ({ ttlSeconds }: PolicyInput) => {
      if (BigInt(ttlSeconds) * MAX_LONG > MAX_LONG) throw new RangeError("overflow");
      return ttlSeconds > 0;
    },
  }),
);

const condition: fc.Arbitrary<Condition> = fc.oneof(
  { weight: 3, arbitrary: atom },
  {
    weight: 1,
    arbitrary: fc.tuple(atom, atom).map(([a, b]) => ({
      text: `(${a.text}) && (${b.text})`,
      holds: (input: PolicyInput, action: PolicyAction) => a.holds(input, action) && b.holds(input, action),
    })),
  },
  {
    weight: 1,
    arbitrary: fc.tuple(atom, atom).map(([a, b]) => ({
      text: `(${a.text}) || !(${b.text})`,
      holds: (input: PolicyInput, action: PolicyAction) => a.holds(input, action) || !b.holds(input, action),
    })),
  },
);

const sometimes = <Value>(value: fc.Arbitrary<Value>): fc.Arbitrary<Value | undefined> =>
  fc.option(value, { nil: undefined, freq: 2 });

const policy: fc.Arbitrary<RandomPolicy> = fc.record({
  effect: fc.constantFrom("permit" as const, "permit" as const, "forbid" as const),
  actions: sometimes(fc.uniqueArray(fc.constantFrom(...actionClasses), { minLength: 1, maxLength: 3 })),
  principal: sometimes(principal),
  resource: sometimes(resource),
  when: sometimes(condition),
  unless: sometimes(condition),
  remedy: sometimes(fc.constantFrom("ttl:60", "ttl:300", "ttl:900", "approval:a", "approval:b", "dpop")),
});

const everything: RandomPolicy = {
  effect: "permit",
  actions: undefined,
  principal: undefined,
  resource: undefined,
  when: undefined,
  unless: undefined,
  remedy: undefined,
};

// Forbids as people write them, whose remedy does lift them.
const honest: fc.Arbitrary<RandomPolicy> = fc
  .tuple(
    fc.oneof(
      fc.constantFrom(60, 300, 900).map((seconds) => ({
        remedy: `ttl:${seconds}`,
        text: `context.ttl_seconds > ${seconds}`,
        holds: ({ ttlSeconds }: PolicyInput) => ttlSeconds > seconds,
      })),
      fc.constantFrom("a", "b").map((by) => ({
        remedy: `approval:${by}`,
        text: `!context.approvals.contains("${by}")`,
        holds: ({ approvals }: PolicyInput) => !approvals.includes(by),
      })),
      fc.constant({
        remedy: "dpop",
        text: 'context.binding == "bearer"',
        holds: ({ binding }: PolicyInput) => binding === "bearer",
      }),
    ),
    sometimes(condition),
  )
  .map(([{ remedy, ...when }, unless]) => ({ ...everything, effect: "forbid", when, unless, remedy }));

/** Up to nine policies. Often one of them permits everything, so that the forbids matter. */
export const somePolicies: fc.Arbitrary<RandomPolicy[]> = fc
  .tuple(
    fc.array(policy, { maxLength: 5 }),
    fc.array(honest, { maxLength: 3 }),
    fc.constantFrom([], [everything], [everything]),
  )
  .map((parts) => parts.flat());

/** The policies as Cedar text. */
export function toText(policies: readonly (readonly [id: string, RandomPolicy])[]): string {
  return policies
    .map(([id, { effect, actions, principal: who, resource: what, when, unless, remedy }]) => {
      const notes = `@id("${id}")${remedy === undefined || effect === "permit" ? "" : ` @remedy("${remedy}")`}`;
      const scope = actions?.map((action) => `Action::"${action}"`);
      const action =
        scope === undefined ? "action" : scope.length === 1 ? `action == ${scope[0]}` : `action in [${scope.join()}]`;
      const conditions = `${when ? ` when { ${when.text} }` : ""}${unless ? ` unless { ${unless.text} }` : ""}`;
      return `${notes}\n${effect} (${who?.text ?? "principal"}, ${action}, ${what?.text ?? "resource"})${conditions};`;
    })
    .join("\n");
}

const someAction: fc.Arbitrary<PolicyAction> = fc
  .record({
    // Mostly two, because every other one of a set of policies has to be preparsed first.
    actionClass: fc.constantFrom<ActionClass[]>(
      ...actionClasses,
      ...Array<ActionClass>(8).fill("read"),
      ...Array<ActionClass>(8).fill("write"),
    ),
    operation: name,
    id: fc.constantFrom(...resourceIds),
    name,
    classification: fc.constantFrom(...classifications),
    environment: fc.constantFrom(...environments),
    risk: fc.constantFrom(...risks),
    groups: fc.array(name, { maxLength: 2 }),
  })
  .map(({ actionClass, operation, ...resourceOf }) => ({ ...anAction(actionClass, resourceOf), operation }));

/** Requests over the same few ids, names and groups that the policies speak of. */
export const someInput: fc.Arbitrary<PolicyInput> = fc
  .record({
    agent: fc.record({ id: fc.constantFrom(...agentIds), name, environment: fc.constantFrom(...environments) }),
    relationships: fc.array(
      fc.record({ subject: fc.constant("agt_1"), relation: fc.constantFrom("member", "owner"), object: name }),
      { maxLength: 3 },
    ),
    purposeName: name,
    initiatedBy: fc.constantFrom("human" as const, "system" as const),
    revocability: fc.constantFrom("immediate" as const, "expiry" as const),
    actions: fc.array(someAction, { minLength: 1, maxLength: 3 }),
    ttlSeconds: fc.constantFrom(1, 60, 61, 300, 600, 900, 3600, 86_400),
    binding: fc.constantFrom("bearer" as const, "dpop" as const, "mtls" as const),
    delegationDepth: fc.nat(5),
    approvals: fc.subarray(["a", "b", "c"]),
  })
  .map(({ agent, purposeName, initiatedBy, revocability, ...rest }) => {
    const base = anInput();
    return {
      ...base,
      ...rest,
      agent: { ...base.agent, ...agent },
      purpose: { ...base.purpose, name: purposeName },
      task: { ...base.task, initiatedBy },
      target: { ...base.target, revocability },
    };
  });
