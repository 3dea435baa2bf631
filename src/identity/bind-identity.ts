import type { Tx } from "../db/database.ts";
import { invalid, MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { areDisjoint, missingCondition, missingPin } from "./broad-claims.ts";
import type { ClaimCondition } from "./claim-conditions.ts";
import { parseSpiffeId } from "./spiffe-id.ts";

/** An identity as it is about to be bound. */
export interface NewIdentity {
  readonly trust_source_id: Id<"trustSource">;
  readonly agent_id: Id<"agent">;
  readonly anchor_claim: string;
  readonly anchor_value: string;
  readonly conditions: readonly ClaimCondition[];
}

/**
 * Throws unless this anchor and these conditions name one workload of this trust source, and no token could be taken
 * for this identity and another. Its trust source and agent must exist already.
 */
export async function checkIdentity(tx: Tx, tenantId: Id<"tenant">, identity: NewIdentity): Promise<void> {
  // The lock makes bindings of one source wait for each other, so that two cannot miss each other below.
  const source = await tx
    .selectFrom("trust_sources")
    .select(["kind", "issuer"])
    .where("tenant_id", "=", tenantId)
    .where("id", "=", identity.trust_source_id)
    .forNoKeyUpdate()
    .executeTakeFirstOrThrow();
  if (source.kind === "spiffe") checkSpiffe(identity, source.issuer);
  const anchor = { claim: identity.anchor_claim, value: identity.anchor_value };
  const missing =
    missingCondition(anchor, identity.conditions) ??
    missingPin(source.issuer, [{ claim: anchor.claim, equals: anchor.value }, ...identity.conditions]);
  if (missing !== undefined) throw invalid("/conditions", missing);

  const agent = await tx
    .selectFrom("agents")
    .select("state")
    .where("tenant_id", "=", tenantId)
    .where("id", "=", identity.agent_id)
    .executeTakeFirstOrThrow();
  if (agent.state === "retired") throw invalid("/agent_id", "this agent is retired");

  const rivals = await tx
    .selectFrom("identities")
    .select(["id", "conditions"])
    .where("tenant_id", "=", tenantId)
    .where("trust_source_id", "=", identity.trust_source_id)
    .where("anchor_claim", "=", identity.anchor_claim)
    .where("anchor_value", "=", identity.anchor_value)
    .orderBy("id")
    .execute();
  const rival = rivals.find(({ conditions }) => !areDisjoint(identity.conditions, conditions as ClaimCondition[]));
  if (rival === undefined) return;
  const detail = `one token could be taken for this and for ${rival.id}: give both a condition on one claim with different values`;
  throw new MayflyError("conflict", detail, { errors: [{ pointer: "/conditions", detail }] });
}

function checkSpiffe({ anchor_claim: claim, anchor_value: value }: NewIdentity, issuer: string): void {
  if (claim !== "sub") throw invalid("/anchor_claim", "a SPIFFE workload is named by sub");
  const id = parseSpiffeId(value);
  if (id === undefined || id.path === "" || `spiffe://${id.trustDomain}` !== issuer)
    throw invalid("/anchor_value", `must be the SPIFFE ID of one workload in ${issuer}`);
}
