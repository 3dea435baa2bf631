import { sql } from "kysely";
import type { Tx } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import { invalid, MayflyError, notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";

/** A purpose and the people around it, locked against other changes. */
interface Judged {
  readonly state: "proposed" | "approved" | "retired";
  readonly version: number;
  readonly proposed_by: string;
  readonly overdue: boolean;
  readonly expired: boolean;
  /** What the agent's owner and the reviewer log in as, where that is known. */
  readonly owner_subject: string | null;
  readonly reviewer_subject: string | null;
}

/**
 * Approves a purpose as it stands at `version`: what the approver read is what becomes true. Neither whoever proposed it
 * nor the owner of its agent can; the table itself refuses the former, too.
 */
export async function approvePurpose(tx: Tx, caller: Principal, id: Id<"purpose">, version: string): Promise<void> {
  const purpose = await lockPurpose(tx, caller.tenantId, id);
  refuseProposer(purpose, caller, "approve");
  if (purpose.owner_subject === caller.subject)
    throw new MayflyError("forbidden", "the owner of an agent does not approve what it is for");
  if (`${purpose.version}` !== version)
    throw new MayflyError("precondition_failed", "the purpose has changed since this ETag: read it again");
  if (purpose.state !== "proposed") throw new MayflyError("conflict", `the purpose is ${purpose.state}`);
  if (purpose.overdue)
    throw new MayflyError("conflict", "its review_by has passed meanwhile: its proposer must give a later one");
  await tx
    .updateTable("purposes")
    .set((eb) => ({
      state: "approved",
      approved_by: caller.subject,
      approved_at: sql`now()`,
      version: eb("version", "+", 1),
      updated_at: sql`now()`,
    }))
    .where("tenant_id", "=", caller.tenantId)
    .where("id", "=", id)
    .execute();
}

/**
 * Notes that an approved purpose was reviewed and may be used until `reviewBy`, which is never after its expiry. By its
 * reviewer, or by anyone who could have approved it; never by whoever proposed it.
 */
export async function reviewPurpose(tx: Tx, caller: Principal, id: Id<"purpose">, reviewBy: string): Promise<void> {
  const purpose = await lockPurpose(tx, caller.tenantId, id);
  refuseProposer(purpose, caller, "review");
  const isReviewer = purpose.reviewer_subject === caller.subject;
  const isApprover = caller.roles.some((role) => role === "approver" || role === "admin");
  if (!isReviewer && (!isApprover || purpose.owner_subject === caller.subject))
    throw new MayflyError("forbidden", "only its reviewer or an approver reviews a purpose");
  if (purpose.state !== "approved") throw new MayflyError("conflict", `the purpose is ${purpose.state}`);
  if (purpose.expired) throw new MayflyError("conflict", "the purpose has expired: propose another one");
  const { numUpdatedRows } = await tx
    .updateTable("purposes")
    .set((eb) => ({ review_by: reviewBy, version: eb("version", "+", 1), updated_at: sql`now()` }))
    .where("tenant_id", "=", caller.tenantId)
    .where("id", "=", id)
    .where(sql<boolean>`${reviewBy}::timestamptz > greatest(review_by, now())`)
    .where(sql<boolean>`${reviewBy}::timestamptz <= expires_at`)
    .executeTakeFirstOrThrow();
  if (numUpdatedRows === 0n)
    throw invalid("/review_by", "must be later than the present one, in the future, and not after expires_at");
}

function refuseProposer(purpose: Judged, caller: Principal, verb: string): void {
  if (purpose.proposed_by === caller.subject)
    throw new MayflyError("forbidden", `whoever proposed a purpose does not ${verb} it`);
}

async function lockPurpose(tx: Tx, tenantId: Id<"tenant">, id: Id<"purpose">): Promise<Judged> {
  const purpose = await tx
    .selectFrom("purposes as p")
    .innerJoin("agents as a", (join) => join.onRef("a.tenant_id", "=", "p.tenant_id").onRef("a.id", "=", "p.agent_id"))
    .innerJoin("owners as o", (join) => join.onRef("o.tenant_id", "=", "a.tenant_id").onRef("o.id", "=", "a.owner_id"))
    .innerJoin("owners as r", (join) =>
      join.onRef("r.tenant_id", "=", "p.tenant_id").onRef("r.id", "=", "p.reviewer_id"),
    )
    .select(["p.state", "p.version", "p.proposed_by", "o.subject as owner_subject", "r.subject as reviewer_subject"])
    .select(sql<boolean>`p.review_by <= now()`.as("overdue"))
    .select(sql<boolean>`p.expires_at <= now()`.as("expired"))
    .where("p.tenant_id", "=", tenantId)
    .where("p.id", "=", id)
    .forNoKeyUpdate("p")
    .executeTakeFirst();
  if (purpose === undefined) throw notFound();
  return purpose;
}
