import type { Db } from "../db/database.ts";
import { type KeyConfirmation, type RememberedCaller, tokenTypeOf } from "../identity/principal.ts";
import { type OwnTokenDeps, ownToken } from "./own-token.ts";

export interface IntrospectDeps extends OwnTokenDeps {
  readonly sql: IntrospectSql;
}

export type IntrospectSql = (
  tenantId: string,
  item: { readonly id: string; readonly caller: string | null },
) => Promise<{
  readonly facts: { readonly generation: number; readonly active: boolean; readonly caller_serves: boolean };
}>;

export function introspectSql(db: Db): IntrospectSql {
  return db.batched("introspect");
}

/** Exactly this for everything that is not alive, not ours, or not the caller's to know (RFC 7662 §2.2). */
const inactive = { active: false } as const;

/** The members of an active token's answer, copied by name from its signed claims. */
const shown = [
  "iss",
  "sub",
  "client_id",
  "aud",
  "exp",
  "iat",
  "jti",
  "scope",
  "authorization_details",
  "txn",
  "cnf",
  "act",
] as const;

/**
 * Whether a token that Mayfly signed is alive now: signature, time, not taken back, task open, agent and owner active,
 * read at this moment (invariant 4). A tool that is an agent of ours learns only about tokens for targets that it
 * serves (relationship `serves`); for the rest it gets the answer that an unknown token gets.
 */
export async function introspect(
  deps: IntrospectDeps,
  { principal, authenticateAgain }: RememberedCaller,
  token: string,
): Promise<object> {
  const own = await ownToken(deps, principal, token);
  const { facts } = await deps.sql(principal.tenantId, { id: own?.id ?? "", caller: principal.agentId ?? null });
  if (facts.generation !== principal.generation) {
    const again = await authenticateAgain();
    if (again.agentId !== principal.agentId) return introspect(deps, { principal: again, authenticateAgain }, token);
    // Nor is the key that signed it any longer one of ours, perhaps: whoever has it writes what they like.
    const present = await ownToken(deps, { ...principal, generation: facts.generation }, token);
    if (present === undefined) return inactive;
  }
  if (own === undefined || !facts.active) return inactive;
  if (principal.agentId !== undefined && !facts.caller_serves) return inactive;
  const { claims } = own;
  return {
    active: true,
    token_type: tokenTypeOf(claims["cnf"] as KeyConfirmation | undefined),
    ...Object.fromEntries(shown.filter((name) => name in claims).map((name) => [name, claims[name]])),
  };
}
