import type { CedarValueJson, Context, Entities, TypeAndId } from "@cedar-policy/cedar-wasm/nodejs";
import {
  actionClasses,
  agentKinds,
  classifications,
  environments,
  type PolicyAction,
  type PolicyInput,
  risks,
} from "./request.ts";

/** What one question to Cedar consists of. */
export interface Question {
  readonly principal: TypeAndId;
  readonly action: TypeAndId;
  readonly resource: TypeAndId;
  readonly context: Context;
  readonly entities: Entities;
}

/**
 * What a set of policies can see. Cedar pays some 10 µs for each fact it is handed, most of a decision's time, and
 * no policy can tell whether a fact that it never mentions was there.
 */
export interface Mentions {
  /** Names of attributes, whatever they are read from. */
  readonly attributes: ReadonlySet<string>;
  /** Whether some policy looks at the context as one value. */
  readonly wholeContext: boolean;
  /** Ids of entities by type. */
  readonly entities: ReadonlyMap<string, ReadonlySet<string>>;
}

type Read = (input: PolicyInput, action: PolicyAction) => CedarValueJson;

const agentFacts: Readonly<Record<string, Read>> = {
  kind: ({ agent }) => agent.kind,
  name: ({ agent }) => agent.name,
  environment: ({ agent }) => agent.environment,
  owner: ({ agent }) => agent.ownerId,
  relations: ({ relationships }) => relationships.map(({ relation, object }) => ({ relation, object })),
};

const resourceFacts: Readonly<Record<string, Read>> = {
  kind: (_, { resource }) => resource.kind,
  name: (_, { resource }) => resource.name,
  classification: (_, { resource }) => resource.classification,
  environment: (_, { resource }) => resource.environment,
  risk: (_, { resource }) => resource.risk,
};

const contextFacts: Readonly<Record<string, Read>> = {
  operation: (_, { operation }) => operation,
  data_class: (_, { resource }) => resource.classification,
  environment: (_, { resource }) => resource.environment,
  ttl_seconds: ({ ttlSeconds }) => ttlSeconds,
  binding: ({ binding }) => binding,
  delegation_depth: ({ delegationDepth }) => delegationDepth,
  approvals: ({ approvals }) => [...approvals],
  purpose: ({ purpose }) => ({ id: purpose.id, name: purpose.name, max_ttl_seconds: purpose.maxTtlSeconds }),
  task: ({ task }) => ({ id: task.id, initiated_by: task.initiatedBy }),
  target: ({ target }) => ({ id: target.id, issuer: target.issuer, revocability: target.revocability }),
};

/** Turns an input into questions for one set of policies, with the facts that those policies can see and no others. */
export type Asker = (input: PolicyInput, action: PolicyAction) => Question;

/** The {@link Asker} for policies that mention these things. */
export function askerFor(mentions: Mentions): Asker {
  const mentioned = (facts: typeof agentFacts): [string, Read][] =>
    Object.entries(facts).filter(([name]) => mentions.attributes.has(name));
  const ofAgent = mentioned(agentFacts);
  const ofResource = mentioned(resourceFacts);
  const ofContext = mentions.wholeContext ? Object.entries(contextFacts) : mentioned(contextFacts);
  const groups = mentions.entities.get("Group") ?? new Set<string>();
  const agentId = idsAmong(mentions.entities.get("Agent"));
  const resourceId = idsAmong(mentions.entities.get("Resource"));

  return (input, action) => {
    const read = (facts: readonly [string, Read][]): Record<string, CedarValueJson> =>
      Object.fromEntries(facts.map(([name, value]) => [name, value(input, action)]));
    const principal = { type: "Agent", id: agentId(input.agent.id) };
    const resource = { type: "Resource", id: resourceId(action.resource.id) };
    return {
      principal,
      action: { type: "Action", id: action.actionClass },
      resource,
      context: read(ofContext),
      entities: [
        {
          uid: principal,
          attrs: read(ofAgent),
          parents: parents(
            input.relationships.map(({ object }) => object),
            groups,
          ),
        },
        { uid: resource, attrs: read(ofResource), parents: parents(action.resource.groups, groups) },
      ],
    };
  };
}

function parents(ids: readonly string[], mentioned: ReadonlySet<string>): TypeAndId[] {
  return [...new Set(ids.filter((id) => mentioned.has(id)))].map((id) => ({ type: "Group", id }));
}

// An id that no policy mentions is as good as any other that none mentions; one name for all of them lets equal
// questions look equal.
function idsAmong(mentioned: ReadonlySet<string> = new Set()): (id: string) => string {
  let other = "-";
  while (mentioned.has(other)) other += "-";
  return (id) => (mentioned.has(id) ? id : other);
}

/** The words that an attribute may hold, for those that have a closed list. `kind` is an agent's. */
export const closedValues: Readonly<Record<string, readonly string[]>> = {
  classification: classifications,
  data_class: classifications,
  environment: environments,
  risk: risks,
  binding: ["bearer", "dpop", "mtls"],
  initiated_by: ["human", "system"],
  revocability: ["immediate", "expiry"],
  kind: agentKinds,
};

/**
 * Whether the input is one that policies can judge: known words, whole numbers. An unknown word would make a forbid
 * that asks for a known one silently not apply.
 */
export function isJudgeable(input: PolicyInput): boolean {
  return (
    isKnown("kind", input.agent.kind) &&
    isKnown("environment", input.agent.environment) &&
    isKnown("initiated_by", input.task.initiatedBy) &&
    isKnown("revocability", input.target.revocability) &&
    isKnown("binding", input.binding) &&
    isCount(input.ttlSeconds) &&
    isCount(input.delegationDepth) &&
    isCount(input.purpose.maxTtlSeconds) &&
    input.actions.every(
      ({ actionClass, resource }) =>
        (actionClasses as readonly string[]).includes(actionClass) &&
        isKnown("classification", resource.classification) &&
        isKnown("environment", resource.environment) &&
        isKnown("risk", resource.risk),
    )
  );
}

function isKnown(attribute: string, value: string): boolean {
  return closedValues[attribute]?.includes(value) === true;
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}
