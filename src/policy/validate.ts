import type { PolicyJson } from "@cedar-policy/cedar-wasm/nodejs";
import { assertNever } from "../lib/errors.ts";
import { CedarFailed, withCedar } from "./cedar.ts";
import { silentMistakes, wordsOf } from "./inspect.ts";
import {
  annotation,
  errorText,
  lineAt,
  lineOf,
  type ParsedPolicy,
  type PolicyProblem,
  parsePolicies,
} from "./parse.ts";
import { parseRemedy, remedyText } from "./remedy.ts";
import type { Remedy } from "./request.ts";
import { cedarSchema } from "./schema.ts";

const MAX_REASON = 500;
const MAX_PROBLEMS = 100;

/**
 * Everything that speaks against publishing a text of policies; empty when nothing does. Beyond Cedar's strict
 * validation it finds the mistakes that Cedar lets pass in silence: a forbid that can never apply, a misspelt word in
 * a comparison, a remedy that cannot lift its forbid.
 */
export function validatePolicies(text: string): readonly PolicyProblem[] {
  const { policies, problems } = parsePolicies(text);
  if (problems.length > 0) return problems;
  try {
    const own = policies.flatMap((policy) =>
      ownProblems(policy).map((message) => ({ policyId: policy.id, message, ...lineAt(text, policy.start) })),
    );
    return [...schemaProblems(text, policies), ...own]
      .sort((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.message < b.message ? -1 : 1))
      .slice(0, MAX_PROBLEMS);
  } catch (error) {
    if (!(error instanceof CedarFailed)) throw error;
    return [{ message: "this text is too complex to be judged safely" }];
  }
}

function schemaProblems(text: string, policies: readonly ParsedPolicy[]): PolicyProblem[] {
  const staticPolicies = Object.fromEntries(policies.map((policy) => [policy.id, policy.text]));
  const answer = withCedar((cedar) => cedar.validate({ schema: cedarSchema, policies: { staticPolicies } }));
  if (answer.type === "failure") return answer.errors.map((error) => ({ message: errorText(error) }));
  const starts = new Map(policies.map(({ id, start }) => [id, start]));
  // Cedar says most things once for every action. Warnings count: "impossible", that is, never true, is the quiet way
  // for a forbid not to work.
  const problems = new Map<string, PolicyProblem>();
  for (const { policyId, error } of [...answer.validationErrors, ...answer.validationWarnings]) {
    const start = starts.get(policyId) ?? -1;
    const offset = Buffer.byteLength(text.slice(0, Math.max(start, 0))) + (error.sourceLocations?.[0]?.start ?? 0);
    const problem = { policyId, message: errorText(error), ...(start < 0 ? {} : { line: lineOf(text, offset) }) };
    problems.set(JSON.stringify(problem), problem);
  }
  return [...problems.values()];
}

function ownProblems({ json }: ParsedPolicy): string[] {
  const problems = silentMistakes(json);
  const reason = annotation(json, "reason");
  if (reason !== undefined && (reason.trim() === "" || reason.length > MAX_REASON)) {
    problems.push(`a @reason is a sentence of at most ${MAX_REASON} characters`);
  }
  const text = annotation(json, "remedy");
  if (text === undefined) return problems;
  const remedy = parseRemedy(text);
  if (json.effect === "permit") problems.push("a permit has no @remedy: there is nothing to lift");
  else if (remedy === undefined) {
    problems.push(`the @remedy "${text}" is none of "ttl:<seconds>", "approval:<approver group>" and "dpop"`);
  } else if (!canLift(remedy, json)) {
    problems.push(`the @remedy "${remedyText(remedy)}" can never lift this forbid, whose conditions do not look at it`);
  }
  return problems;
}

function canLift(remedy: Remedy, json: PolicyJson): boolean {
  const { attributes, values } = wordsOf(json);
  switch (remedy.kind) {
    case "ttl":
      return attributes.has("ttl_seconds");
    case "dpop":
      return attributes.has("binding");
    case "approval":
      return attributes.has("approvals") && values.has(remedy.by);
    default:
      return assertNever(remedy);
  }
}
