import { hash } from "node:crypto";

/**
 * The canonical JSON text of a value (RFC 8785): members sorted by UTF-16 code units, no white space. Values that
 * JSON cannot carry (undefined members apart, which are left out) are refused with a TypeError.
 */
export function canonicalJson(value: unknown): string {
  const known = typeof value === "object" && value !== null ? texts.get(value) : undefined;
  if (known !== undefined) return known;
  if (value === null || typeof value === "boolean" || typeof value === "string") return JSON.stringify(value);
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new TypeError("canonical JSON has no NaN and no Infinity");
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (typeof value !== "object") throw new TypeError(`canonical JSON has no ${typeof value}`);
  let members = "";
  for (const name of sorted(Object.keys(value))) {
    const member = (value as Record<string, unknown>)[name];
    if (member === undefined) continue;
    members += `${members === "" ? "" : ","}${JSON.stringify(name)}:${canonicalJson(member)}`;
  }
  return `{${members}}`;
}

/** Most are sorted already, and to see that is cheaper than sorting. */
function sorted(names: string[]): string[] {
  return names.every((name, index) => index === 0 || (names[index - 1] ?? "") < name) ? names : names.sort();
}

const texts = new WeakMap<object, string>();

const made = new WeakMap<object, object>();

/**
 * What `make` makes of `source`, made once and never changed: the same object for the same source, with its canonical
 * text remembered. For parts that many values share. One kind of thing per source.
 */
export function constantOf<Source extends object, Part extends object>(
  source: Source,
  make: (source: Source) => Part,
): Part {
  const known = made.get(source) as Part | undefined;
  if (known !== undefined) return known;
  const part = make(source);
  freeze(part);
  texts.set(part, canonicalJson(part));
  made.set(source, part);
  return part;
}

function freeze(value: unknown): void {
  if (typeof value !== "object" || value === null) return;
  for (const member of Object.values(value)) freeze(member);
  Object.freeze(value);
}

/** Hex SHA-256 of the canonical JSON of a value: equal meaning, equal hash. */
export function canonicalHash(value: unknown): string {
  return hash("sha256", canonicalJson(value), "hex");
}
