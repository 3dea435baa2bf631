import { type Selectable, sql } from "kysely";
import { takeBack } from "../credentials/take-back.ts";
import { type Db, sqlState, type Tx } from "../db/database.ts";
import { closeGate } from "../db/gate.ts";
import type { Database } from "../db/schema.ts";
import type { Principal } from "../identity/principal.ts";
import { MayflyError, notFound } from "../lib/errors.ts";
import { type Id, newId, SYSTEM_TENANT } from "../lib/ids.ts";

export type TenantRow = Selectable<Database["tenants"]>;

/** Runs in the transaction that makes a tenant, which sees that tenant and nothing else. */
export type OnTenantCreated = (tx: Tx, tenant: { readonly id: Id<"tenant">; readonly name: string }) => Promise<void>;

/** Throws a 403 unless the caller is an operator in the system tenant: the role alone is not enough. */
export function requireOperator({ tenantId, roles }: Principal): void {
  if (tenantId !== SYSTEM_TENANT || !roles.includes("operator"))
    throw new MayflyError("forbidden", "tenants are managed by operators, in the system tenant");
}

/** Makes a tenant and what it starts with. It acts inside the new tenant, whose audit begins with this. */
export async function createTenant(
  db: Db,
  caller: Principal,
  { name, display_name }: { readonly name: string; readonly display_name: string },
  onCreated: OnTenantCreated,
  requestId: string,
): Promise<TenantRow> {
  requireOperator(caller);
  const id = newId("tenant");
  try {
    return await db.withTenant({ tenantId: id, actor: caller.subject, requestId }, async (tx) => {
      const row = await tx
        .insertInto("tenants")
        .values({ id, name, display_name })
        .returningAll()
        .executeTakeFirstOrThrow();
      await onCreated(tx, { id, name });
      return row;
    });
  } catch (error) {
    if (sqlState(error) !== "23505") throw error;
    const detail = "another tenant has this name";
    throw new MayflyError("conflict", detail, { errors: [{ pointer: "/name", detail }], cause: error });
  }
}

/** Tenants by id, after a key. */
export async function listTenants(
  db: Db,
  caller: Principal,
  filter: { readonly name?: string | undefined; readonly state?: TenantRow["state"] | undefined },
  page: { readonly limit: number; readonly after: Id<"tenant"> | undefined },
): Promise<TenantRow[]> {
  return asOperator(db, caller, undefined, (tx) => {
    let found = tx.selectFrom("tenants").selectAll().orderBy("id").limit(page.limit);
    if (filter.name !== undefined) found = found.where("name", "=", filter.name);
    if (filter.state !== undefined) found = found.where("state", "=", filter.state);
    if (page.after !== undefined) found = found.where("id", ">", page.after);
    return found.execute();
  });
}

/** One tenant. Throws `not_found`. */
export async function readTenant(db: Db, caller: Principal, id: Id<"tenant">): Promise<TenantRow> {
  const row = await asOperator(db, caller, undefined, (tx) =>
    tx.selectFrom("tenants").selectAll().where("id", "=", id).executeTakeFirst(),
  );
  if (row === undefined) throw notFound();
  return row;
}

/** Gives a tenant another name for people. */
export async function renameTenant(
  db: Db,
  caller: Principal,
  id: Id<"tenant">,
  { displayName, version }: { readonly displayName: string; readonly version: string },
  requestId: string,
): Promise<TenantRow> {
  const row = await asOperator(db, caller, requestId, (tx) =>
    tx
      .updateTable("tenants")
      .set((eb) => ({ display_name: displayName, version: eb("version", "+", 1), updated_at: sql`now()` }))
      .where("id", "=", id)
      .where(sql<string>`version::text`, "=", version)
      .returningAll()
      .executeTakeFirst(),
  );
  if (row !== undefined) return row;
  await readTenant(db, caller, id);
  throw new MayflyError("precondition_failed", "the tenant has changed since this ETag: read it again");
}

/**
 * Suspends a tenant and takes back every credential in it, or lets it in again; what was taken back stays dead. It acts
 * inside that tenant, where the credentials are. Suspending twice is harmless.
 */
export async function changeTenantState(
  db: Db,
  caller: Principal,
  id: Id<"tenant">,
  to: TenantRow["state"],
  requestId: string,
): Promise<TenantRow> {
  requireOperator(caller);
  if (id === SYSTEM_TENANT)
    throw new MayflyError("conflict", "the tenant of the operators is not suspended: nobody could bring it back");
  return db.withTenant({ tenantId: id, actor: caller.subject, requestId }, async (tx) => {
    await closeGate(tx, id);
    const tenant = await tx.selectFrom("tenants").selectAll().where("id", "=", id).forNoKeyUpdate().executeTakeFirst();
    if (tenant === undefined) throw notFound();
    const row =
      tenant.state === to
        ? tenant
        : await tx
            .updateTable("tenants")
            .set((eb) => ({ state: to, version: eb("version", "+", 1), updated_at: sql`now()` }))
            .where("id", "=", id)
            .returningAll()
            .executeTakeFirstOrThrow();
    if (to === "suspended")
      await takeBack(tx, (query) => query, { tenantId: id, by: caller.subject, reason: "tenant_suspended" });
    return row;
  });
}

function asOperator<Value>(
  db: Db,
  caller: Principal,
  requestId: string | undefined,
  work: (tx: Tx) => Promise<Value>,
): Promise<Value> {
  requireOperator(caller);
  const acting = { tenantId: caller.tenantId, actor: caller.subject };
  return db.withTenant(requestId === undefined ? acting : { ...acting, requestId }, work);
}
