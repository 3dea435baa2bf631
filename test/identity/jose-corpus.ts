import type { CaseClass } from "./forge.ts";
import * as claims from "./jose-corpus-claims.ts";
import * as headers from "./jose-corpus-headers.ts";

/**
 * reliability M1: the malicious JOSE corpus by class. Each case is refused with a stable code, quickly, without a key
 * being asked for where the token itself is wrong, and with a detail that repeats nothing of the token.
 */
export const corpus: Readonly<Record<string, CaseClass>> = { ...headers, ...claims };

/** How many cases each class has at least (reliability M1). */
export const least: Readonly<Record<string, number>> = {
  none: 8,
  confusion: 12,
  kids: 14,
  carried: 10,
  extensions: 12,
  times: 22,
  parties: 22,
  kinds: 10,
  spellings: 8,
  duplicates: 10,
  sizes: 8,
  delegation: 14,
};
