import type { ClaimCondition } from "./claim-conditions.ts";

/** Claims that say which group somebody belongs to: many workloads share a value. */
const shared = new Set(
  "acr amr aud auth_time base_ref environment event_name exp groups hd head_ref iat iss namespace_id namespace_path nbf org org_id organization ref ref_protected ref_type repository_owner repository_owner_id repository_visibility role roles runner_environment scope scp tid typ user_access_level ver version workflow".split(
    " ",
  ),
);
/** Claims whose values are given to somebody else one day. */
const reusable = new Set(
  "actor email name nickname phone_number preferred_username project_path repository unique_name upn user_email user_login".split(
    " ",
  ),
);
/** Claims that differ in every token. */
const fleeting = new Set("at_hash c_hash jti nonce run_attempt run_id run_number s_hash sid txn uti".split(" "));

const fits = (anchor: Anchor, claims: readonly string[]) => claims.includes(anchor.claim);

interface Anchor {
  readonly claim: string;
  readonly value: string;
}

/** Issuers that everybody gets tokens from, and the claims of which one makes them yours. */
const sharedIssuers: readonly { issuer: RegExp; pins: readonly string[] }[] = [
  {
    issuer: /^https:\/\/accounts\.google\.com$/,
    pins: ["sub", "/google/compute_engine/project_id", "/google/compute_engine/project_number"],
  },
  {
    // Also with an enterprise's name behind it, which is a name and can be another's one day.
    issuer: /^https:\/\/token\.actions\.githubusercontent\.com(\/|$)/,
    pins: ["repository_id", "repository_owner_id", "enterprise_id"],
  },
  { issuer: /^https:\/\/gitlab\.com$/, pins: ["project_id", "namespace_id"] },
];

/** Anchors that name one workload only together with another claim (standards §5). */
const incomplete: readonly { applies(anchor: Anchor): boolean; oneOf: readonly string[]; why: string }[] = [
  {
    applies: (anchor) => fits(anchor, ["sub"]) && anchor.value.startsWith("system:serviceaccount:"),
    oneOf: ["/kubernetes.io/serviceaccount/uid"],
    why: "a service account's name can be used again, its uid cannot",
  },
  {
    applies: (anchor) => fits(anchor, ["repository_id"]),
    oneOf: ["job_workflow_ref", "workflow_ref", "environment", "ref"],
    why: "every workflow of a repository, also one from a fork, has its repository_id",
  },
  {
    // Two forms: `repo:acme/app:…`, and since July 2026 `repo:acme@1/app@7:…`. Neither is taken apart here.
    applies: (anchor) => fits(anchor, ["sub"]) && anchor.value.startsWith("repo:"),
    oneOf: ["repository_id"],
    why: "a repository's name can be used again, its id cannot",
  },
  {
    applies: (anchor) => fits(anchor, ["project_id"]),
    oneOf: ["ci_config_ref_uri", "environment", "ref", "ref_path"],
    why: "every job of a project has its project_id",
  },
];

/** What is wrong with an anchor: a claim that does not name one workload. Undefined when nothing is. */
export function broadAnchor(claim: string): string | undefined {
  if (shared.has(claim))
    return "many workloads share a value of this claim: anchor on the one that names yours, like sub";
  if (reusable.has(claim)) return `${REUSABLE}: anchor on an id, like sub`;
  if (fleeting.has(claim)) return "this claim differs in every token: anchor on one that stays, like sub";
  return undefined;
}

/** What is wrong with a condition that gives something to whoever meets it: that others may meet it one day. */
export function reusableCondition({ claim }: ClaimCondition): string | undefined {
  return reusable.has(claim.replace(/^\//, "")) ? `${REUSABLE}: use an id, like sub` : undefined;
}

/**
 * What is missing where an issuer's tokens are everybody's: a condition that names the account, project or repository
 * that is yours. Undefined when there is one, or the issuer is one organisation's own.
 */
export function missingPin(issuer: string, conditions: readonly ClaimCondition[]): string | undefined {
  const pins = sharedIssuers.find((one) => one.issuer.test(issuer))?.pins;
  if (pins === undefined || conditions.some((one) => pins.includes(one.claim) && valuesOf(one) !== undefined))
    return undefined;
  return `everybody gets tokens of this issuer: add a condition with equals on ${pins.join(" or ")}`;
}

/** What is wrong with a condition of an identity: that it fits many workloads, or nothing at all. */
export function broadCondition(anchorClaim: string, condition: ClaimCondition): string | undefined {
  if ("spiffe_prefix" in condition) return "a prefix fits many workloads: bind each by its own identity";
  const reusedOneDay = reusableCondition(condition);
  if (reusedOneDay !== undefined) return reusedOneDay;
  if (condition.claim === anchorClaim || condition.claim === `/${anchorClaim}`) return "this is the anchor's claim";
  const values =
    "one_of" in condition ? condition.one_of : ["equals" in condition ? condition.equals : condition.contains];
  if (values.length > 10) return "more than ten values fit many workloads: bind each by its own identity";
  if (values.some((value) => typeof value === "string" && value.includes("*"))) return WILDCARD;
  return undefined;
}

const REUSABLE = "a value of this claim can belong to somebody else one day";
export const WILDCARD = "values are compared byte by byte: there are no wildcards";

/** What an anchor still lacks to name one workload. */
export function missingCondition(anchor: Anchor, conditions: readonly ClaimCondition[]): string | undefined {
  for (const { applies, oneOf, why } of incomplete) {
    if (!applies(anchor)) continue;
    const given = conditions.some((condition) => oneOf.includes(condition.claim) && "equals" in condition);
    if (!given) return `${why}: add a condition with equals on ${oneOf.join(" or ")}`;
  }
  return undefined;
}

/** Whether no token can meet both: some claim must have a value here that it must not have there. */
export function areDisjoint(some: readonly ClaimCondition[], others: readonly ClaimCondition[]): boolean {
  return some.some((one) =>
    others.some((other) => {
      const [here, there] = [valuesOf(one), valuesOf(other)];
      return (
        one.claim === other.claim && here !== undefined && there !== undefined && !here.some((v) => there.includes(v))
      );
    }),
  );
}

function valuesOf(condition: ClaimCondition): readonly unknown[] | undefined {
  if ("equals" in condition) return [condition.equals];
  return "one_of" in condition ? condition.one_of : undefined;
}
