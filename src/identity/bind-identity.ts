import type { Tx } from "../db/database.ts";
import { invalid, MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { areDisjoint, missingCondition, missingPin } from "./broad-claims.ts";
import { canonicalIp, certificateAnchors } from "./certificate-claims.ts";
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
  if (source.kind === "x509_ca") checkCertificateAnchor(identity);
  if (source.kind === "self_signed") checkSelfSigned(identity, source.issuer);
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

/** Exactly one of the five names of RFC 8705 §2.1.2, in the spelling that a certificate is read in: no other would ever match. */
function checkCertificateAnchor({ anchor_claim: claim, anchor_value: value }: NewIdentity): void {
  switch (claim) {
    case "san_dns":
      if (!/^[a-z0-9_-]+(\.[a-z0-9_-]+)*$/.test(value))
        throw invalid("/anchor_value", "must be a DNS name in lower case");
      return;
    case "san_ip":
      if (canonicalIp(value) !== value)
        throw invalid("/anchor_value", "must be an IP address in its shortest spelling");
      return;
    case "subject_dn":
      if (!/^[A-Za-z0-9.]+=/.test(value) || /, | ,/.test(value))
        throw invalid("/anchor_value", "must be a distinguished name as RFC 4514 writes it: CN=agent-1,O=Example");
      return;
    case "san_uri":
    case "san_email":
      if (!/^[\x21-\x7e]+$/.test(value)) throw invalid("/anchor_value", "must be printable ASCII without spaces");
      return;
    default:
      throw invalid("/anchor_claim", `a certificate is told by one of ${certificateAnchors.join(", ")}`);
  }
}

function checkSelfSigned({ anchor_claim: claim, anchor_value: value }: NewIdentity, issuer: string): void {
  if (claim !== "sub" || value !== issuer)
    throw invalid("/anchor_value", "the one client of this trust source is told by sub, which is the source's issuer");
}
