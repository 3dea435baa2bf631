import type { DetailedError, PolicyJson } from "@cedar-policy/cedar-wasm/nodejs";
import { CedarFailed, withCedar } from "./cedar.ts";

/** One thing wrong with a text of policies. `policyId` is absent when it is about no single policy, or one without an id. */
export interface PolicyProblem {
  readonly policyId?: string;
  readonly message: string;
  /** Counted from 1. */
  readonly line?: number;
}

/** One policy of a text: its own text, where it starts (in characters), and Cedar's JSON form of it. */
export interface ParsedPolicy {
  readonly id: string;
  readonly text: string;
  readonly start: number;
  readonly json: PolicyJson;
}

const MAX_BYTES = 256 * 1024;
const MAX_POLICIES = 1000;
// Cedar reads and judges policies by recursion on a stack of 1 MB. Its calls were seen to fail from 100 nested
// brackets, or from 300 chained operators, upwards.
const MAX_NESTING = 32;
const MAX_OPERATORS = 250;
// `policy0` is what Cedar calls a policy without a name, `mayfly-…` is kept for what Mayfly itself may once decide.
const RESERVED_ID = /^(?:policy[0-9]+|mayfly(?:-.*)?)$/;
const ID = /^[a-z][a-z0-9]*(?:-[a-z0-9]+)*$/;

/**
 * Splits a text into its policies. Either `problems` is empty, or the text must not be used. It says nothing about
 * whether the policies fit the schema.
 */
export function parsePolicies(text: string): { policies: readonly ParsedPolicy[]; problems: readonly PolicyProblem[] } {
  const unreadable = textProblems(text);
  if (unreadable.length > 0) return { policies: [], problems: unreadable };
  try {
    return readPolicies(text);
  } catch (error) {
    if (!(error instanceof CedarFailed)) throw error;
    return { policies: [], problems: [{ message: "this text is too complex to be judged safely" }] };
  }
}

/** The line of a position that Cedar reports (in bytes), counted from 1. */
export function lineOf(text: string, byteOffset: number): number {
  return Buffer.from(text).subarray(0, byteOffset).toString().split("\n").length;
}

function readPolicies(text: string): { policies: ParsedPolicy[]; problems: PolicyProblem[] } {
  const parts = withCedar((cedar) => cedar.policySetTextToParts(text));
  if (parts.type === "failure") return { policies: [], problems: syntaxProblems(text) };
  const problems: PolicyProblem[] = parts.policy_templates.map((template) => ({
    message: "templates (?principal, ?resource) are not supported",
    ...lineAt(text, text.indexOf(template)),
  }));
  if (parts.policies.length > MAX_POLICIES) {
    problems.push({ message: `there are ${parts.policies.length} policies, at most ${MAX_POLICIES} are allowed` });
    return { policies: [], problems };
  }
  const starts = new Map<string, number>();
  const policies = parts.policies
    .map((part) => {
      const start = text.indexOf(part, (starts.get(part) ?? -1) + 1);
      starts.set(part, start);
      return readPolicy(part, start);
    })
    .sort((a, b) => a.start - b.start);
  const seen = new Set<string>();
  for (const { id, start } of policies) {
    const message = seen.has(id) ? `two policies have the @id "${id}"` : idProblem(id);
    if (message !== undefined)
      problems.push({ ...(id === "" ? {} : { policyId: id }), message, ...lineAt(text, start) });
    seen.add(id);
  }
  return { policies, problems };
}

function readPolicy(text: string, start: number): ParsedPolicy {
  const answer = withCedar((cedar) => cedar.policyToJson(text));
  if (answer.type === "failure") throw new CedarFailed("a part of a policy set is not a policy");
  return { id: annotation(answer.json, "id") ?? "", text, start, json: answer.json };
}

/** An annotation of a policy; `""` when it stands there without a value, undefined when it does not. */
export function annotation(policy: PolicyJson, name: string): string | undefined {
  const annotations: Record<string, string | null> = policy.annotations ?? {};
  return Object.hasOwn(annotations, name) ? (annotations[name] ?? "") : undefined;
}

function idProblem(id: string): string | undefined {
  if (id === "") return 'every policy needs an @id("…")';
  if (id.length > 64 || !ID.test(id)) return "an @id is lower-case words joined by hyphens, at most 64 characters";
  if (RESERVED_ID.test(id)) return `the @id "${id}" is reserved`;
  return undefined;
}

function syntaxProblems(text: string): PolicyProblem[] {
  const answer = withCedar((cedar) => cedar.checkParsePolicySet({ staticPolicies: text }));
  if (answer.type === "success") return [{ message: "this text cannot be split into policies" }];
  return answer.errors.map((error) => {
    const offset = error.sourceLocations?.[0]?.start;
    return { message: errorText(error), ...(offset === undefined ? {} : { line: lineOf(text, offset) }) };
  });
}

/** What Cedar says of an error, without the policy, which is named beside it, and without the action, which is one of many. */
export function errorText({ message, help }: DetailedError): string {
  const plain = message
    .replace(/^failed to parse polic(?:y|ies) from string: /, "")
    .replace(/^for policy `[^`]*`[,:]? /, "")
    .replace(/ for Action::"[a-z_]+"/, "");
  return help === null ? plain : `${plain} (${help})`;
}

// Strings and comments are matched so that what is in them is not counted.
const TOKENS =
  /"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?$)|\/\/[^\n\r]*|[()[\]{};]|&&|\|\||[-+*.<>!=]=?|\b(?:if|when|unless|in|has|like|is)\b/gs;

function textProblems(text: string): PolicyProblem[] {
  const bytes = Buffer.byteLength(text);
  if (bytes > MAX_BYTES) return [{ message: `the text has ${bytes} bytes, at most ${MAX_BYTES} are allowed` }];
  // Characters that a reviewer does not see can make a policy read as another one than it is; half of a surrogate
  // pair makes Cedar throw.
  const hidden = /[\p{Cs}\p{Cf}\p{Co}\p{Zl}\p{Zp}]|(?![\n\r\t])\p{Cc}/u.exec(text);
  if (hidden !== null) return [{ message: "the text holds an invisible character", ...lineAt(text, hidden.index) }];

  const problems: PolicyProblem[] = [];
  let nesting = 0;
  let operators = 0;
  let reported = false;
  for (const { 0: token, index } of text.matchAll(TOKENS)) {
    if (token.startsWith('"') || token.startsWith("//")) continue;
    if (token === ";") {
      nesting = operators = 0;
      reported = false;
    } else if ("([{".includes(token)) nesting++;
    else if (")]}".includes(token)) nesting = Math.max(0, nesting - 1);
    else operators++;
    if (reported || (nesting <= MAX_NESTING && operators <= MAX_OPERATORS)) continue;
    reported = true;
    const message = `a policy may nest ${MAX_NESTING} brackets and hold ${MAX_OPERATORS} operators; split this one up`;
    problems.push({ message, ...lineAt(text, index) });
  }
  return problems;
}

/** The line of a position in characters, as a member to spread; nothing when the position is not known. */
export function lineAt(text: string, index: number): { line?: number } {
  return index < 0 ? {} : { line: text.slice(0, index).split("\n").length };
}
