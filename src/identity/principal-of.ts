import { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { type ClaimCondition, mappedRoles, meetsCondition } from "./claim-conditions.ts";
import type { Claims } from "./decode-token.ts";
import type { Binding, Principal } from "./principal.ts";
import type { TrustSource } from "./trust-source.ts";

/** A trust source as a process remembers it. */
export interface Source<Config extends TrustSource = TrustSource> {
  readonly id: Id<"trustSource">;
  readonly version: number;
  readonly config: Config;
}

/** What `mayfly.authenticate` answers about a proof that is good. */
export interface AuthFacts {
  readonly generation: number;
  readonly tenant_state: "active" | "suspended";
  readonly source_version: number | null;
  readonly source_state: "active" | "disabled" | null;
  readonly fresh: boolean;
  readonly identities: readonly {
    readonly id: Id<"identity">;
    readonly agent_id: Id<"agent">;
    readonly conditions: readonly ClaimCondition[];
  }[];
}

/** What a token or a certificate has proven. */
export interface Proven {
  readonly claims: Claims;
  /** Stable and unique at its trust source. */
  readonly subject: string;
  readonly clientId: string;
  readonly binding: Binding;
}

/** One identity makes it an agent, role mappings make it a human or an orchestrator; never both, never ambiguous. */
export function principalOf(
  tenant: { readonly id: Id<"tenant">; readonly name: string },
  source: Source,
  proven: Proven,
  facts: AuthFacts,
): Principal {
  if (facts.tenant_state !== "active") throw tenantSuspended();
  if (facts.source_version !== source.version || facts.source_state !== "active") throw unknownIssuer();
  if (!facts.fresh) throw refusal("token_replayed", "this token may be used once and has been; send a new one");

  const { claims } = proven;
  const matching = facts.identities.filter((identity) =>
    identity.conditions.every((condition) => meetsCondition(condition, claims)),
  );
  const { generation } = facts;
  const common = {
    tenantId: tenant.id,
    tenantName: tenant.name,
    binding: proven.binding,
    generation,
    trustSourceId: source.id,
    clientId: proven.clientId,
  };
  const [identity, second] = matching;
  const roles = mappedRoles(source.config.role_mappings, claims);
  if (second !== undefined || (identity !== undefined && roles.length > 0))
    throw refusal("identity_ambiguous", "the proof fits more than one identity; an admin must make them distinct");
  if (identity !== undefined)
    return {
      ...common,
      subject: identity.agent_id,
      roles: ["agent"],
      agentId: identity.agent_id,
      identityId: identity.id,
    };
  if (roles.length === 0)
    throw refusal("identity_unknown", "the proof is genuine, but no identity or role mapping fits it");
  return { ...common, subject: `${source.id}|${proven.subject}`, roles };
}

/** A refusal as an error: retryable when it is for want of keys, else `unauthenticated`. */
export function refusal(code: string, detail: string): MayflyError {
  if (code === "keys_unavailable" || code === "keys_stale")
    return new MayflyError("unavailable", detail, { reasons: [{ code, detail }], retryAfterSeconds: 5 });
  return new MayflyError("unauthenticated", detail, { reasons: [{ code, detail }] });
}

export function unknownIssuer(): MayflyError {
  return refusal("token_issuer_unknown", "no trust source of the tenant answers for this issuer");
}

export function tenantSuspended(): MayflyError {
  return refusal("tenant_suspended", "the tenant is suspended");
}
