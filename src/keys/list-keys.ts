import { type Selectable, sql } from "kysely";
import type { Db } from "../db/database.ts";
import type { Database } from "../db/schema.ts";
import type { Principal } from "../identity/principal.ts";
import type { KeyPurpose } from "./key-purpose.ts";

/** What may be told of a key: never its private part, not even sealed. */
export const keyColumns = [
  "kid",
  "purpose",
  "algorithm",
  "state",
  "created_at",
  "activated_at",
  "retired_at",
  "published_until",
  "ended_at",
  "reason",
] as const;
export type KeyRow = Pick<Selectable<Database["signing_keys"]>, (typeof keyColumns)[number]>;

/** Where a page of keys ended: the newest come first. */
export type KeyPlace = readonly [createdMs: number, kid: string];

/** The tenant's keys, also those that are gone, newest first. */
export async function listKeys(
  db: Db,
  { tenantId, subject }: Principal,
  filter: { readonly purpose?: KeyPurpose | undefined; readonly state?: KeyRow["state"] | undefined },
  { limit, after }: { readonly limit: number; readonly after: KeyPlace | undefined },
): Promise<KeyRow[]> {
  return db.withTenant({ tenantId, actor: subject }, (tx) => {
    let keys = tx.selectFrom("signing_keys").select(keyColumns).where("tenant_id", "=", tenantId);
    if (filter.purpose !== undefined) keys = keys.where("purpose", "=", filter.purpose);
    if (filter.state !== undefined) keys = keys.where("state", "=", filter.state);
    if (after !== undefined)
      keys = keys.where(sql<boolean>`(mayfly.ms(created_at), kid) < (${after[0]}::bigint, ${after[1]})`);
    return keys.orderBy(sql`mayfly.ms(created_at)`, "desc").orderBy("kid", "desc").limit(limit).execute();
  });
}
