import { keepNewest } from "../lib/keep-newest.ts";
import { CedarFailed, onCedarReplaced, withCedar } from "./cedar.ts";
import type { Slice } from "./compile.ts";
import type { Question } from "./facts.ts";
import type { PolicyAction, PolicyInput } from "./request.ts";

/** Cedar's answer to one question. On `deny`, `policies` are the forbids that matched; empty means that nothing permits it. */
export type Judgement =
  | { readonly decision: "allow" | "deny"; readonly policies: readonly string[] }
  | { readonly decision: "error"; readonly policies: readonly string[] };

/**
 * Asks Cedar about one action on one resource. A policy that errored makes the whole answer an error, although Cedar
 * would skip it and let the others decide: a forbid that could not be read must not be one that did not apply.
 */
export function judge(slice: Slice, input: PolicyInput, action: PolicyAction): Judgement {
  const question = slice.ask(input, action);
  const text = JSON.stringify(question);
  const key = `${slice.key} ${text}`;
  const known = answers.get(key);
  if (known !== undefined) return known;
  // Cedar throws, and costs its instance, where JSON holds half of a surrogate pair: stringify() leaves those escaped.
  if (/(?<!\\)(?:\\\\)*\\ud[89a-f]/.test(text)) return failed;
  const judgement = askCedar(slice, question);
  if (judgement !== failed && text.length <= MAX_REMEMBERED_LENGTH) keepNewest(answers, MAX_REMEMBERED, key, judgement);
  return judgement;
}

const failed: Judgement = { decision: "error", policies: [] };

/*
 * Cedar is pure, so its answer to the very same question under the very same policies is known: 100 times faster than
 * asking again. Questions hold nothing that no policy mentions, so most are the same. At most some 25 MB.
 */
const answers = new Map<string, Judgement>();
const MAX_REMEMBERED = 10_000;
const MAX_REMEMBERED_LENGTH = 2_000;

function askCedar(slice: Slice, question: Question): Judgement {
  try {
    const preparsedPolicySetId = preparse(slice);
    const answer = withCedar((cedar) =>
      // Without the schema: it would cost more than the judging. Publishing checks the policies against it, and
      // facts.ts makes questions that fit it by construction; a test asks Cedar to check that.
      cedar.statefulIsAuthorized({ ...question, entities: [...question.entities], preparsedPolicySetId }),
    );
    if (answer.type === "failure") return failed;
    const { decision, diagnostics } = answer.response;
    if (diagnostics.errors.length > 0) {
      return { decision: "error", policies: diagnostics.errors.map(({ policyId }) => policyId).sort() };
    }
    return { decision, policies: [...diagnostics.reason].sort() };
  } catch (error) {
    if (error instanceof CedarFailed) return failed;
    throw error;
  }
}

/*
 * What is preparsed lives in WebAssembly memory, some 16 bytes for each of its text, under a name, for ever: Cedar can
 * replace it but not forget it. So names are used again, and a slice that was not asked for a while gives its memory
 * back by being replaced with nothing. It is preparsed again when it is next asked. Slices of equal policies, such as
 * the default ones of many tenants, are one.
 */
interface Preparsed {
  readonly name: string;
  readonly size: number;
}
const MAX_PREPARSED_SIZE = 4 * 1024 * 1024;
const preparsed = new Map<string, Preparsed>();
const freeNames: string[] = [];
let names = 0;

onCedarReplaced(() => preparsed.clear());

function preparse(slice: Slice): string {
  const found = preparsed.get(slice.key);
  if (found !== undefined) {
    // A Map remembers the order of insertion, so the first is the one that was not asked for the longest.
    preparsed.delete(slice.key);
    preparsed.set(slice.key, found);
    return found.name;
  }
  let size = slice.size;
  for (const each of preparsed.values()) size += each.size;
  for (const [key, oldest] of preparsed) {
    if (size <= MAX_PREPARSED_SIZE) break;
    withCedar((cedar) => cedar.preparsePolicySet(oldest.name, { staticPolicies: {} }));
    preparsed.delete(key);
    size -= oldest.size;
    freeNames.push(oldest.name);
  }
  const name = freeNames.pop() ?? `slice ${names++}`;
  const answer = withCedar((cedar) => cedar.preparsePolicySet(name, { staticPolicies: { ...slice.policies } }));
  if (answer.type === "failure") {
    freeNames.push(name);
    throw new CedarFailed("a policy set that was read cannot be preparsed");
  }
  preparsed.set(slice.key, { name, size: slice.size });
  return name;
}
