import { z } from "zod";
import type { Claims } from "./decode-token.ts";
import type { Role } from "./principal.ts";
import { isSpiffePattern, matchesSpiffePattern } from "./spiffe-id.ts";

/**
 * Claims that the verifier itself compares. A condition on them would hold for every token of the source, so it would
 * be an empty condition in disguise: nobody's identity may rest on it.
 */
const verifiedClaims = ["iss", "aud", "exp", "iat", "nbf"];

/** What whoever asks AWS for a token writes into it (STS `GetWebIdentityToken`, `Tags`). It proves nothing about them. */
const chosenByCaller = "request_tags";

const claimName = z
  .string()
  .min(1)
  .max(256)
  .refine(isClaimName, "a claim is a member name or a JSON pointer (RFC 6901) with valid ~0 and ~1 escapes")
  .refine(
    (name) => !verifiedClaims.includes(claimPath(name)[0] ?? ""),
    "iss, aud, exp, iat and nbf are checked for every token: a condition on them narrows nothing",
  )
  .refine(
    (name) => !claimPath(name).includes(chosenByCaller),
    "request_tags are chosen by whoever asks for the token: use what the issuer says, like aws_account or principal_tags",
  );

const text = z.string().min(1).max(2048);
// A larger integer would compare equal to its neighbours: JSON numbers are doubles (RFC 8259 §6).
const scalar = z.union([text, z.int(), z.boolean()]);

/**
 * What one claim must be. `equals` and `one_of` compare with type (`"7"` is not `7`), `contains` looks into an array
 * for one such value, `spiffe_prefix` (`spiffe://td/path/*`) matches SPIFFE IDs by whole segments. There are no
 * patterns on purpose: an unanchored one is the classic hole.
 */
export const claimConditionSchema = z.union([
  z.strictObject({ claim: claimName, equals: scalar }),
  z.strictObject({ claim: claimName, one_of: z.array(scalar).min(1).max(100) }),
  z.strictObject({ claim: claimName, contains: scalar }),
  z.strictObject({
    claim: claimName,
    spiffe_prefix: z.string().refine(isSpiffePattern, "a SPIFFE prefix is spiffe://<trust domain>/<path>/*"),
  }),
]);
export type ClaimCondition = z.output<typeof claimConditionSchema>;

/** Conditions that say who somebody is. Empty would mean everybody at this issuer, so empty is refused. */
export const identifyingConditionsSchema = z.array(claimConditionSchema).min(1).max(20);

/** Whether one condition holds. A claim that is missing, null or of another type does not meet it. */
export function meetsCondition(condition: ClaimCondition, claims: Claims): boolean {
  const value = claimAt(claims, condition.claim);
  if ("equals" in condition) return value === condition.equals;
  if ("one_of" in condition) return condition.one_of.some((expected) => value === expected);
  if ("contains" in condition) return Array.isArray(value) && value.includes(condition.contains);
  return typeof value === "string" && matchesSpiffePattern(condition.spiffe_prefix, value);
}

/** Whether these claims are the one meant: every condition holds, and there is at least one (none means nobody). */
export function identifies(conditions: readonly ClaimCondition[], claims: Claims): boolean {
  return conditions.length > 0 && conditions.every((condition) => meetsCondition(condition, claims));
}

/** The roles that a trust source's mappings give to these claims, each once, in no particular order. */
export function mappedRoles(
  mappings: readonly { readonly when: readonly ClaimCondition[]; readonly roles: readonly Role[] }[],
  claims: Claims,
): readonly Role[] {
  return [...new Set(mappings.flatMap(({ when, roles }) => (identifies(when, claims) ? roles : [])))];
}

/**
 * The value of a claim: a top-level member by its exact name, or, when the name starts with `/`, what the JSON
 * pointer names. A pointer steps through objects alone, by own members; arrays are for `contains`.
 */
export function claimAt(claims: Claims, name: string): unknown {
  let value: unknown = claims;
  for (const step of claimPath(name)) {
    if (typeof value !== "object" || value === null || Array.isArray(value) || !Object.hasOwn(value, step)) {
      return undefined;
    }
    value = (value as Record<string, unknown>)[step];
  }
  return value;
}

/** Whether a claim name is usable in a condition or in `required_claims`. */
export function isClaimName(name: string): boolean {
  return name.startsWith("/") ? name.length > 1 && !/~(?![01])/.test(name) : name.length > 0;
}

function claimPath(name: string): readonly string[] {
  if (!name.startsWith("/")) return [name];
  // RFC 6901 §4: ~1 before ~0, so that ~01 means ~1.
  return name
    .slice(1)
    .split("/")
    .map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
}
