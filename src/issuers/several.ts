import { canonicalJson } from "../lib/canonical-json.ts";

/** What several grants ask for, each thing once: the first of those whose `key` is the same JSON. */
export function eachOnce<One>(wanted: readonly One[], key: (one: One) => unknown): One[] {
  const keys = wanted.map((one) => canonicalJson(key(one)));
  return wanted.filter((_, index) => keys.indexOf(keys[index] ?? "") === index);
}

/**
 * What stands before the members of each in one secret: nothing when there is one alone, else its name and a dot, the second of a
 * name as `name#2.`.
 */
export function prefixes(names: readonly string[]): string[] {
  if (names.length === 1) return [""];
  return names.map((name, index) => {
    const nth = names.slice(0, index + 1).filter((one) => one === name).length;
    return nth === 1 ? `${name}.` : `${name}#${nth}.`;
  });
}
