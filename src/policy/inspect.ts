import type { PolicyJson } from "@cedar-policy/cedar-wasm/nodejs";
import { closedValues, type Mentions } from "./facts.ts";

type Node = Readonly<Record<string, unknown>>;

/** All that these policies can see of a request. When in doubt something is taken as mentioned. */
export function mentionsOf(policies: readonly PolicyJson[]): Mentions {
  const attributes = new Set<string>();
  const entities = new Map<string, Set<string>>();
  let wholeContext = false;
  walk(policies, (node) => {
    for (const name of attributesOf(node)) attributes.add(name);
    if (node["Var"] === "context") wholeContext = true;
    const { type, id } = node;
    if (typeof type === "string" && typeof id === "string") {
      entities.set(type, (entities.get(type) ?? new Set()).add(id));
    }
    // What is left of `.` and `has` is looked into, not looked at: `context.binding` does not mention the context.
    const looked = node["."] ?? node["has"];
    return isNode(looked) && isNode(looked["left"]) && looked["left"]["Var"] === "context" ? "skip" : "descend";
  });
  return { attributes, wholeContext, entities };
}

/** The attributes that a policy names and the literal values that it holds. */
export function wordsOf(policy: PolicyJson): { attributes: ReadonlySet<string>; values: ReadonlySet<unknown> } {
  const attributes = new Set<string>();
  const values = new Set<unknown>();
  walk(policy, (node) => {
    for (const name of attributesOf(node)) attributes.add(name);
    for (const value of literalsOf(node) ?? []) values.add(value);
    return "descend";
  });
  return { attributes, values };
}

/**
 * What strict validation cannot see is wrong: comparisons with a word that the attribute never holds, and questions
 * about entities that are not part of the request. Both are false, or an error, for every request.
 */
export function silentMistakes(policy: PolicyJson): string[] {
  const mistakes = new Set<string>();
  walk(policy, (node) => {
    for (const operator of ["==", "!=", "contains", "containsAny", "containsAll"]) {
      const operands = node[operator];
      if (!isNode(operands)) continue;
      for (const [one, other] of [
        [operands["left"], operands["right"]],
        [operands["right"], operands["left"]],
      ]) {
        for (const mistake of misspelt(one, other)) mistakes.add(mistake);
      }
    }
    for (const operator of [".", "has", "in", "is"]) {
      const operands = node[operator];
      const [left] = isNode(operands) ? (literalsOf(operands["left"]) ?? []) : [];
      if (isNode(left))
        mistakes.add("only principal and resource can be asked about: other entities are not in a request");
    }
    return "descend";
  });
  return [...mistakes];
}

function misspelt(read: unknown, compared: unknown): string[] {
  if (!isNode(read) || !isNode(read["."])) return [];
  const { left, attr } = read["."];
  if (typeof attr !== "string" || !Object.hasOwn(closedValues, attr)) return [];
  if (attr === "kind" && !(isNode(left) && left["Var"] === "principal")) return [];
  const known: readonly unknown[] = closedValues[attr] ?? [];
  return (literalsOf(compared) ?? [])
    .filter((value) => !known.includes(value))
    .map((value) => `${JSON.stringify(value)} is not a value of ${attr}: it is one of ${known.join(", ")}`);
}

/** The values of a literal or of a set of literals; undefined for any other expression. */
function literalsOf(node: unknown): unknown[] | undefined {
  if (!isNode(node)) return undefined;
  if (Array.isArray(node["Set"])) return node["Set"].flatMap((element) => literalsOf(element) ?? []);
  return "Value" in node ? [node["Value"]].flat() : undefined;
}

function attributesOf(node: Node): string[] {
  const access = node["."] ?? node["has"];
  const name = isNode(access) ? access["attr"] : undefined;
  return [name].flat().filter((each): each is string => typeof each === "string");
}

function isNode(value: unknown): value is Node {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Visits every object in a JSON value, parents first. */
function walk(value: unknown, visit: (node: Node) => "descend" | "skip"): void {
  if (Array.isArray(value)) {
    for (const element of value) walk(element, visit);
  } else if (isNode(value) && visit(value) === "descend") {
    for (const member of Object.values(value)) walk(member, visit);
  }
}
