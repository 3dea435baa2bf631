import type { Selectable } from "kysely";
import type { Db } from "../db/database.ts";
import type { Database } from "../db/schema.ts";
import type { Principal } from "../identity/principal.ts";
import { notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";

export type UseRow = Omit<Selectable<Database["uses"]>, "tenant_id" | "agent_id" | "task_id" | "request_id">;

/** What tools reported about one credential, the newest report first. An agent sees those of its own credentials; the rest is `not_found`. */
export async function listUses(
  db: Db,
  { tenantId, subject, agentId }: Principal,
  credentialId: Id<"credential">,
  page: { readonly limit: number; readonly after: Id<"use"> | undefined },
): Promise<UseRow[]> {
  return db.withTenant({ tenantId, actor: subject }, async (tx) => {
    const credential = await tx
      .selectFrom("credentials")
      .select("agent_id")
      .where("tenant_id", "=", tenantId)
      .where("id", "=", credentialId)
      .executeTakeFirst();
    if (credential === undefined || (agentId !== undefined && credential.agent_id !== agentId)) throw notFound();
    let uses = tx
      .selectFrom("uses")
      .select(["id", "credential_id", "action", "resource", "outcome", "at", "after_end", "reported_by", "recorded_at"])
      .where("tenant_id", "=", tenantId)
      .where("credential_id", "=", credentialId)
      .orderBy("id", "desc")
      .limit(page.limit);
    if (page.after !== undefined) uses = uses.where("id", "<", page.after);
    return uses.execute();
  });
}
