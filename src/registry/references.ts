import { type RawBuilder, sql } from "kysely";
import type { Tx } from "../db/database.ts";
import { invalid, MayflyError } from "../lib/errors.ts";
import { type Id, type IdKind, isId } from "../lib/ids.ts";

/** What a body can refer to by id, and what it is called. An owner counts only while it is active. */
const referable = {
  team: { table: "teams", what: "team" },
  owner: { table: "owners", what: "owner" },
  agent: { table: "agents", what: "agent" },
  trustSource: { table: "trust_sources", what: "trust source" },
  resource: { table: "resources", what: "resource" },
  purpose: { table: "purposes", what: "purpose" },
  target: { table: "targets", what: "target" },
  task: { table: "tasks", what: "task" },
} as const satisfies Partial<Record<IdKind, { table: string; what: string }>>;

/** A kind of thing that others can refer to. */
export type Referable = keyof typeof referable;

/** The kind of thing that an id names, when it is one that can be referred to. */
export function referableKind(id: string): Referable | undefined {
  return (Object.keys(referable) as Referable[]).find((kind) => isId(kind, id));
}

/**
 * Throws a 400 at `pointer` unless the thing exists in this tenant; another tenant's id answers as an unknown one
 * (invariant 10). It stays until the caller's transaction has ended: the row is locked against deletion.
 */
export async function requireReference(
  tx: Tx,
  tenantId: Id<"tenant">,
  kind: Referable,
  id: string,
  pointer: string,
): Promise<void> {
  if (kind === "owner") return requireActiveOwner(tx, tenantId, id as Id<"owner">, pointer);
  const { table, what } = referable[kind];
  const found = await sql`
    select 1 from ${sql.table(table)} where tenant_id = ${tenantId} and id = ${id} for key share`.execute(tx);
  if (found.rows.length === 0) throw invalid(pointer, `there is no ${what} with this id`);
}

/**
 * Throws a 400 at `pointer` unless the owner exists and is active. The share lock makes a departure wait for us, and
 * then see what it has come to own (depart-owner.ts).
 */
export async function requireActiveOwner(
  tx: Tx,
  tenantId: Id<"tenant">,
  id: Id<"owner">,
  pointer: string,
): Promise<void> {
  const status = await lockOwner(tx, tenantId, id);
  if (status === undefined) throw invalid(pointer, "there is no owner with this id");
  if (status !== "active") throw invalid(pointer, "this owner has departed");
}

/** The owner's status, which cannot change before the caller's transaction has ended. */
export async function lockOwner(
  tx: Tx,
  tenantId: Id<"tenant">,
  id: Id<"owner">,
): Promise<"active" | "departed" | undefined> {
  const owner = await tx
    .selectFrom("owners")
    .select("status")
    .where("tenant_id", "=", tenantId)
    .where("id", "=", id)
    .forShare()
    .executeTakeFirst();
  return owner?.status;
}

/** A column elsewhere that may name a thing. `words` is how its rows are called when they stand in the way. */
export interface Referrer {
  readonly table: string;
  readonly column: string;
  readonly words: string;
  /** The column to name in the answer; `id` unless the rows have none. */
  readonly naming?: string;
  /** Whether the column holds several ids. */
  readonly many?: boolean;
}

/** Everything may stand in a relationship. */
const relationships: readonly Referrer[] = [
  { table: "relationships", column: "subject", words: "relationships" },
  { table: "relationships", column: "object", words: "relationships" },
];

const SHOWN = 3;

/**
 * Throws a 409 that names what still refers to this thing. Run it with the thing's row locked FOR UPDATE: whoever is
 * about to refer to it holds a lock on that row, so nothing can slip in between this look and the deletion.
 */
export async function refuseWhileReferred(
  tx: Tx,
  tenantId: Id<"tenant">,
  id: string,
  what: string,
  referrers: readonly Referrer[],
): Promise<void> {
  for (const { table, column, words, naming = "id", many } of [...referrers, ...relationships]) {
    const names: RawBuilder<boolean> = many
      ? sql`${sql.ref(column)} @> array[${id}]::text[]`
      : sql`${sql.ref(column)} = ${id}`;
    const { rows } = await sql<{ id: string }>`
      select ${sql.ref(naming)} as id from ${sql.table(table)}
       where tenant_id = ${tenantId} and ${names} order by 1 limit ${SHOWN + 1}`.execute(tx);
    if (rows.length === 0) continue;
    const named = rows.slice(0, SHOWN).map((row) => row.id);
    const more = rows.length > SHOWN ? " and more" : "";
    throw new MayflyError("conflict", `${words} still refer to this ${what}: ${named.join(", ")}${more}`);
  }
}
