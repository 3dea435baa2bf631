import type { FieldError } from "../lib/errors.ts";
import { pointerToken } from "./validate.ts";

const MAX_PARAMETERS = 64;
const PRINTABLE_ASCII = /^[\x21-\x7e]*$/;

interface FlatRules {
  /** What a pointer to a parameter starts with: `#/query/` or `/`. */
  readonly prefix: string;
  readonly repeatable?: readonly string[];
  readonly dropEmpty?: boolean;
}

/**
 * Reads `a=b&c=d` into a flat object and adds what is wrong to `problems`. Unlike URLSearchParams it refuses what
 * does not decode as UTF-8 instead of guessing, and unlike qs it knows no brackets (H5); a parameter given twice is
 * a problem, because the next reader may take the other one.
 */
export function parseFlat(
  text: string,
  rules: FlatRules,
  problems: FieldError[],
): Record<string, string | readonly string[]> {
  const found: Record<string, string | string[]> = {};
  if (text === "") return found;
  const pairs = text.split("&", MAX_PARAMETERS + 1);
  if (pairs.length > MAX_PARAMETERS) {
    problems.push({ pointer: rules.prefix.replace(/\/$/, ""), detail: `more than ${MAX_PARAMETERS} parameters` });
    return found;
  }
  const seen = new Set<string>();
  for (const pair of pairs) {
    if (pair === "") continue;
    const equals = pair.indexOf("=");
    const name = decode(equals < 0 ? pair : pair.slice(0, equals));
    const value = equals < 0 ? "" : decode(pair.slice(equals + 1));
    if (name === undefined || name === "" || value === undefined) {
      const pointer = name ? rules.prefix + pointerToken(name) : rules.prefix.replace(/\/$/, "");
      problems.push({ pointer, detail: "is not percent-encoded UTF-8" });
      continue;
    }
    if (name === "__proto__") {
      problems.push({ pointer: rules.prefix + name, detail: "is not a known parameter" });
      continue;
    }
    const repeatable = rules.repeatable?.includes(name) === true;
    if (seen.has(name) && !repeatable) {
      problems.push({ pointer: rules.prefix + pointerToken(name), detail: "was given twice" });
      continue;
    }
    seen.add(name);
    if (value === "" && rules.dropEmpty === true) continue;
    if (repeatable) found[name] = [...(found[name] ?? []), value];
    else found[name] = value;
  }
  return found;
}

function decode(text: string): string | undefined {
  if (!PRINTABLE_ASCII.test(text)) return undefined;
  try {
    const decoded = decodeURIComponent(text.replaceAll("+", " "));
    // Postgres text holds no NUL: let in, it would be a 500 there.
    return decoded.includes("\0") ? undefined : decoded;
  } catch {
    return undefined;
  }
}
