import { sql } from "kysely";
import { takeBack } from "../credentials/take-back.ts";
import type { Tx } from "../db/database.ts";
import { invalid, notFound } from "../lib/errors.ts";
import { type Id, SYSTEM_TENANT } from "../lib/ids.ts";
import { parseAt } from "../registry/field-errors.ts";
import { missingPin } from "./broad-claims.ts";
import type { Principal } from "./principal.ts";
import { type TrustSource, trustSourceSchema } from "./trust-source.ts";

/**
 * Throws a 400 for what no setting alone makes wrong: operators outside the system tenant, Mayfly as its own source, roles
 * for everybody whom a shared issuer knows.
 */
export function checkTrustSource(
  source: Pick<TrustSource, "issuer" | "role_mappings">,
  { tenantId, tenantName }: Principal,
  ownIssuer: string,
): void {
  // Every tenant's issuer string begins alike. A token of ours that came in by a trust source would be no agent's.
  const ours = ownIssuer.slice(0, ownIssuer.length - tenantName.length);
  if (source.issuer.startsWith(ours)) throw invalid("/issuer", "Mayfly's own tokens need no trust source");
  const mapping = source.role_mappings.findIndex(({ roles }) => roles.includes("operator"));
  if (mapping >= 0 && tenantId !== SYSTEM_TENANT)
    throw invalid(`/role_mappings/${mapping}/roles`, "operators exist in the system tenant alone");
  for (const [index, { when }] of source.role_mappings.entries()) {
    const missing = missingPin(source.issuer, when);
    if (missing !== undefined) throw invalid(`/role_mappings/${index}/when`, missing);
  }
}

/** The source as it would be with these settings, judged as a whole. `null` takes a setting away. */
export function changedSettings(
  row: { readonly kind: string; readonly issuer: string; readonly settings: Readonly<Record<string, unknown>> },
  given: Readonly<Record<string, unknown>>,
): TrustSource {
  const together = Object.entries({ ...row.settings, ...given, kind: row.kind, issuer: row.issuer });
  return parseAt(
    trustSourceSchema,
    Object.fromEntries(together.filter(([, value]) => value !== null && value !== undefined)),
    "",
  );
}

/**
 * Disables a trust source and takes back every credential that was minted by somebody whom it vouched for; or enables it
 * again, which brings nothing back. Doing it twice is harmless.
 *
 * The change has closed the tenant's gate: a mint has either committed (and is taken back), or finds the source disabled.
 */
export async function changeTrustSourceState(
  tx: Tx,
  { tenantId, subject }: Principal,
  id: Id<"trustSource">,
  to: "active" | "disabled",
): Promise<void> {
  const source = await tx
    .selectFrom("trust_sources")
    .select("state")
    .where("tenant_id", "=", tenantId)
    .where("id", "=", id)
    .forNoKeyUpdate()
    .executeTakeFirst();
  if (source === undefined) throw notFound();
  const identities = await tx
    .selectFrom("identities")
    .select(["id", "agent_id"])
    .where("tenant_id", "=", tenantId)
    .where("trust_source_id", "=", id)
    .execute();
  const agents = identities.map((identity) => identity.agent_id);
  if (to === "disabled" && agents.length > 0) await lockAgents(tx, tenantId, agents);
  if (source.state !== to)
    await tx
      .updateTable("trust_sources")
      .set((eb) => ({ state: to, version: eb("version", "+", 1), updated_at: sql`now()` }))
      .where("tenant_id", "=", tenantId)
      .where("id", "=", id)
      .execute();
  if (to === "disabled" && agents.length > 0)
    await takeBackOf(
      tx,
      tenantId,
      subject,
      agents,
      identities.map((identity) => identity.id),
    );
}

/** Waits for the mints of these agents that are under way, and keeps new ones waiting. */
export async function lockAgents(tx: Tx, tenantId: Id<"tenant">, agents: readonly Id<"agent">[]): Promise<void> {
  await tx
    .selectFrom("agents")
    .select("id")
    .where("tenant_id", "=", tenantId)
    .where("id", "in", [...agents])
    .orderBy("id")
    .forNoKeyUpdate()
    .execute();
}

/** Takes back what was minted through these identities. The agents are named because the live index begins with them. */
export async function takeBackOf(
  tx: Tx,
  tenantId: Id<"tenant">,
  by: string,
  agents: readonly Id<"agent">[],
  identities: readonly Id<"identity">[],
): Promise<void> {
  await takeBack(
    tx,
    (query) => query.where("agent_id", "in", [...agents]).where("identity_id", "in", [...identities]),
    {
      tenantId,
      by,
      reason: "identity_removed",
    },
  );
}
