import { randomUUID } from "node:crypto";

/**
 * The kinds of id and their prefixes. An id is `<prefix>_<32 hex digits of a UUIDv7>`: the same text in code, SQL,
 * API, logs and downstream names; it sorts by time of creation (RFC 9562 §5.7).
 */
const idPrefixes = {
  tenant: "ten",
  owner: "own",
  team: "tea",
  agent: "agt",
  identity: "idn",
  trustSource: "trs",
  resource: "res",
  relationship: "rel",
  purpose: "pur",
  target: "tgt",
  policySet: "pol",
  task: "tsk",
  credential: "crd",
  decision: "dec",
  approval: "apr",
  revocation: "rev",
  event: "evt",
  statusList: "stl",
  use: "use",
} as const;

export type IdKind = keyof typeof idPrefixes;

/** An id of one kind. The brand keeps an agent's id from being passed where a task's is meant. */
export type Id<Kind extends IdKind> = string & { readonly __kind: Kind };

/** The tenant that operators act in and that owns no agents. Fixed by migration 0001. */
export const SYSTEM_TENANT = "ten_00000000000070008000000000000000" as Id<"tenant">;

/** A new id whose first 48 bits are this process's clock in milliseconds. Order is a convenience, never a fact. */
export function newId<Kind extends IdKind>(kind: Kind): Id<Kind> {
  // The random bits of a UUIDv4 and its variant, which Node takes from a pool: a tenth of the time of randomBytes.
  const random = randomUUID();
  const time = Date.now().toString(16).padStart(12, "0");
  return `${idPrefixes[kind]}_${time}7${random.slice(15, 18)}${random.slice(19, 23)}${random.slice(24)}` as Id<Kind>;
}

/** The pattern of one kind of id, for schemas and for OpenAPI. */
export function idPattern(kind: IdKind): RegExp {
  return new RegExp(`^${idPrefixes[kind]}_[0-9a-f]{32}$`);
}

/** Whether `text` is spelled as an id of this kind. It says nothing about whether it exists. */
export function isId<Kind extends IdKind>(kind: Kind, text: string): text is Id<Kind> {
  return idPattern(kind).test(text);
}
