import type { ActionConstraint } from "@cedar-policy/cedar-wasm/nodejs";
import { canonicalHash } from "../lib/canonical-json.ts";
import type { Id } from "../lib/ids.ts";
import { type Asker, askerFor } from "./facts.ts";
import { mentionsOf } from "./inspect.ts";
import { annotation, type ParsedPolicy, parsePolicies } from "./parse.ts";
import { parseRemedy } from "./remedy.ts";
import { type ActionClass, actionClasses, type PolicySet, type Remedy } from "./request.ts";

/** The policies that can have a say on one class of actions, under Cedar's own names for them. */
export interface Slice {
  /** Equal for slices of equal policies, whoever's they are. */
  readonly key: string;
  readonly policies: Readonly<Record<string, string>>;
  /** The length of their texts together. */
  readonly size: number;
  readonly ask: Asker;
}

/** What a decision says of a policy. */
export interface PolicyNotes {
  readonly reason: string;
  readonly remedy: Remedy | undefined;
}

/** A policy set made ready for deciding. It holds no WebAssembly memory of its own and needs no disposing. */
export interface CompiledPolicies {
  readonly tenantId: Id<"tenant">;
  readonly version: number;
  /** Empty when the text cannot be read: then every decision is a denial. */
  readonly slices: ReadonlyMap<ActionClass, Slice>;
  readonly notes: ReadonlyMap<string, PolicyNotes>;
}

/**
 * Makes a published policy set ready for deciding: slices it by action class, because Cedar pays for every policy it
 * is handed. Never throws: a text that cannot be read compiles to policies that deny everything with `policy_error`.
 */
export function compile({ tenantId, version, text }: PolicySet): CompiledPolicies {
  const { policies, problems } = parsePolicies(text);
  const slices = new Map<ActionClass, Slice>();
  if (problems.length === 0) {
    for (const actionClass of actionClasses) {
      slices.set(actionClass, sliceOf(policies.filter(({ json }) => canMatch(json.action, actionClass))));
    }
  }
  return { tenantId, version, slices, notes: new Map(policies.map((policy) => [policy.id, notesOf(policy)])) };
}

function sliceOf(policies: readonly ParsedPolicy[]): Slice {
  const texts = Object.fromEntries(policies.map(({ id, text }) => [id, text]));
  return {
    key: canonicalHash(texts),
    policies: texts,
    size: policies.reduce((size, { text }) => size + text.length, 0),
    ask: askerFor(mentionsOf(policies.map(({ json }) => json))),
  };
}

// Whatever is not plainly about other actions stays in: a policy too many costs time, one too few is a hole.
function canMatch(scope: ActionConstraint, actionClass: ActionClass): boolean {
  if (scope.op === "All" || "slot" in scope) return true;
  const entities = "entities" in scope ? scope.entities : [scope.entity];
  return entities.some((entity) => {
    const { type, id } = "__entity" in entity ? entity["__entity"] : entity;
    return type !== "Action" || id === actionClass;
  });
}

function notesOf({ id, json }: ParsedPolicy): PolicyNotes {
  const remedy = annotation(json, "remedy");
  return {
    reason: annotation(json, "reason") ?? `policy ${id} forbids this`,
    remedy: remedy === undefined ? undefined : parseRemedy(remedy),
  };
}
