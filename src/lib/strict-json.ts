/**
 * What a text may hold. `maxDepth` counts nested objects and arrays, `maxMembers` the members of all objects and
 * the elements of all arrays together.
 */
export interface StrictJsonLimits {
  readonly maxDepth: number;
  readonly maxMembers: number;
}

/** The limits of HTTP bodies and of token headers and payloads. */
export const strictJsonLimits: StrictJsonLimits = { maxDepth: 10, maxMembers: 500 };

const problems = {
  syntax: "this is not JSON",
  byte_order_mark: "a byte order mark is not accepted",
  duplicate_member: "a member name appears twice in one object",
  forbidden_member: "this member name is never accepted",
  too_deep: "objects and arrays are nested too deeply",
  too_many_members: "there are too many members and elements",
  lone_surrogate: "a string holds half of a surrogate pair",
  nul: "a string holds a NUL character",
  number_out_of_range: "a number is too large to be represented",
} as const;

/** What was wrong with a text. Stable, so that callers may tell them apart. */
export type StrictJsonProblem = keyof typeof problems;

/**
 * Why a text was refused. `pointer` is the JSON pointer (RFC 6901) of the offending value, `""` for the whole text;
 * it holds member names of the text. `message` and `problem` never quote the text.
 */
export class StrictJsonError extends Error {
  readonly problem: StrictJsonProblem;
  readonly pointer: string;

  constructor(problem: StrictJsonProblem, pointer: string) {
    super(problems[problem]);
    this.name = "StrictJsonError";
    this.problem = problem;
    this.pointer = pointer;
  }
}

/**
 * The value of a JSON text in which every parser reads the same thing (RFC 8259 §4, RFC 7493): no name twice, no
 * `__proto__`, `constructor` or `prototype`, no lone surrogate, no NUL, no byte order mark, no number beyond a
 * double, nothing deeper or wider than the limits. Throws {@link StrictJsonError} and nothing else.
 */
export function parseStrictJson(text: string, limits: StrictJsonLimits = strictJsonLimits): unknown {
  if (text.charCodeAt(0) === 0xfeff) throw new StrictJsonError("byte_order_mark", "");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // The engine's message quotes the text, so it goes nowhere, not even into `cause`.
    throw new StrictJsonError("syntax", "");
  }
  // JSON.parse keeps the last of two equal names, so a duplicate is a name in the text that the value lacks.
  // Comparing the two counts adds 1.5 µs to a body of 300 bytes, collecting names while scanning 13 µs: so the scan
  // that collects them only explains a refusal.
  const seen: Seen = { names: 0, members: 0, escapes: text.includes("\\u") };
  if (!isWellFormed(text) || !isFit(value, 1, limits, seen) || seen.names !== countNames(text)) {
    throw explain(text, limits);
  }
  return value;
}

interface Seen {
  names: number;
  members: number;
  /** Only an escape can bring a NUL or a lone surrogate into a well-formed text. */
  readonly escapes: boolean;
}

function isFit(value: unknown, depth: number, limits: StrictJsonLimits, seen: Seen): boolean {
  if (typeof value === "string") return !seen.escapes || isFitText(value);
  if (typeof value === "number") return Number.isFinite(value);
  if (typeof value !== "object" || value === null) return true;
  if (depth > limits.maxDepth) return false;
  if (Array.isArray(value)) {
    seen.members += value.length;
    if (seen.members > limits.maxMembers) return false;
    for (const element of value) if (!isFit(element, depth + 1, limits, seen)) return false;
    return true;
  }
  const names = Object.keys(value);
  seen.names += names.length;
  seen.members += names.length;
  if (seen.members > limits.maxMembers) return false;
  for (const name of names) {
    if (isForbidden(name) || (seen.escapes && !isFitText(name))) return false;
    if (!isFit((value as Record<string, unknown>)[name], depth + 1, limits, seen)) return false;
  }
  return true;
}

function isForbidden(name: string): boolean {
  return name === "__proto__" || name === "constructor" || name === "prototype";
}

function isFitText(text: string): boolean {
  return !text.includes("\0") && isWellFormed(text);
}

/** `String.prototype.isWellFormed` is in every supported Node, though not in the es2023 library types. */
function isWellFormed(text: string): boolean {
  return (text as string & { isWellFormed(): boolean }).isWellFormed();
}

/** How many member names a valid JSON text holds: the strings that are followed by a colon. */
function countNames(text: string): number {
  let names = 0;
  for (let start = text.indexOf('"'); start !== -1; ) {
    const next = skipSpace(text, endOfString(text, start));
    if (text.charCodeAt(next) === COLON) names += 1;
    start = text.indexOf('"', next);
  }
  return names;
}

const COLON = 0x3a;
const BACKSLASH = 0x5c;

/** The index after the closing quote of the string that opens at `start`. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); ; end = text.indexOf('"', end + 1)) {
    // Not in a valid text; if it were, ending here is better than turning for ever.
    if (end === -1) return text.length;
    let slash = end - 1;
    while (text.charCodeAt(slash) === BACKSLASH) slash -= 1;
    if ((end - slash) % 2 === 1) return end + 1;
  }
}

function skipSpace(text: string, from: number): number {
  let at = from;
  while (at < text.length && text.charCodeAt(at) <= 0x20) at += 1;
  return at;
}

interface Frame {
  /** The names so far; absent for an array. */
  readonly names?: Set<string>;
  /** Where we are: a member name or an element's index. */
  at: string | number;
  expectsName: boolean;
}

/** Finds the first thing wrong with a valid JSON text that {@link isFit} or the count refused, in document order. */
function explain(text: string, limits: StrictJsonLimits): StrictJsonError {
  const stack: Frame[] = [];
  const fail = (problem: StrictJsonProblem): StrictJsonError => new StrictJsonError(problem, pointerOf(stack));
  let members = 0;
  for (let i = skipSpace(text, 0); i < text.length; i = skipSpace(text, i)) {
    const character = text.charAt(i);
    const top = stack.at(-1);
    const opensElement = top !== undefined && top.names === undefined && !",]".includes(character);
    if (opensElement && (members += 1) > limits.maxMembers) return fail("too_many_members");
    if (character === "{" || character === "[") {
      if (stack.length >= limits.maxDepth) return fail("too_deep");
      stack.push(character === "{" ? { names: new Set(), at: "", expectsName: true } : { at: 0, expectsName: false });
      i += 1;
    } else if (character === "}" || character === "]") {
      stack.pop();
      i += 1;
    } else if (character === ",") {
      if (top?.names !== undefined) top.expectsName = true;
      else if (top !== undefined) top.at = (top.at as number) + 1;
      i += 1;
    } else if (character === '"') {
      const end = endOfString(text, i);
      const string = JSON.parse(text.slice(i, end)) as string;
      const isName = top?.names !== undefined && top.expectsName;
      if (isName) top.at = string;
      if (string.includes("\0")) return fail("nul");
      if (!isWellFormed(string)) return fail("lone_surrogate");
      if (isName) {
        if ((members += 1) > limits.maxMembers) return fail("too_many_members");
        if (isForbidden(string)) return fail("forbidden_member");
        if (top.names?.has(string)) return fail("duplicate_member");
        top.names?.add(string);
        top.expectsName = false;
      }
      i = end;
    } else if (character === ":") {
      i += 1;
    } else {
      const literal = /[^\s,:{}[\]"]+/y;
      literal.lastIndex = i;
      const word = literal.exec(text)?.[0] ?? character;
      if (/[0-9]/.test(word) && !Number.isFinite(Number(word))) return fail("number_out_of_range");
      i += word.length;
    }
  }
  // Not reachable while the two scans agree (a property test holds them together); refusing is still the right answer.
  return new StrictJsonError("syntax", "");
}

function pointerOf(stack: readonly Frame[]): string {
  return stack.map(({ at }) => `/${String(at).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}
