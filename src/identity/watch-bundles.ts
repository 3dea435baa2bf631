import type { Db } from "../db/database.ts";
import type { Id } from "../lib/ids.ts";
import type { KeyCache } from "./key-cache.ts";
import { tokenSourceSchema } from "./trust-source.ts";

/** The bundles of all tenants' SPIFFE trust sources, for one process. Each call rejects when the database does not answer. */
export interface BundleWatch {
  /**
   * Tells the keys of every active source that publishes its bundle, and the least sequence that it may have; forgets
   * those that are gone. Called before each refresh: a bundle is read because an admin registered it, never because a
   * token named its trust domain.
   */
  announce(): Promise<void>;
  /** Stores the sequences of what has been read, so that no process, however new, takes an older bundle (SPIFFE trust domain and bundle §4.1.1). */
  keepSequences(): Promise<void>;
}

interface Watched {
  readonly tenantId: Id<"tenant">;
  readonly id: Id<"trustSource">;
  readonly version: number;
  /** The sequence that is stored. */
  readonly sequence: number | null;
}

/** Makes the watch over the sources that this database knows. */
export function createBundleWatch(db: Db, keyCache: KeyCache): BundleWatch {
  let watched: ReadonlyMap<string, Watched> = new Map();
  return {
    async announce() {
      const found = await db.callAcrossTenants<{
        tenant_id: Id<"tenant">;
        id: Id<"trustSource">;
        version: number;
        sequence: number | null;
      }>("bundle_sources", []);
      const next = new Map<string, Watched>();
      for (const { tenant_id: tenantId, id, version, sequence } of found) {
        const before = watched.get(id);
        const isNews = before?.version !== version || before.sequence !== sequence;
        if (isNews && !(await tell(db, keyCache, { tenantId, id, version, sequence }))) continue;
        next.set(id, { tenantId, id, version, sequence });
      }
      for (const id of watched.keys()) if (!next.has(id)) keyCache.forget(id);
      watched = next;
    },
    async keepSequences() {
      for (const { tenantId, id, version, sequence: stored } of watched.values()) {
        const held = keyCache.sequenceOf({ id, version });
        if (held === undefined || (stored !== null && held <= stored)) continue;
        await db.callForTenant("keep_bundle_sequence", tenantId, [id, version, held]);
      }
    },
  };
}

/** Whether the source could be told: one that was just changed or deleted must not keep the others from being known. */
async function tell(db: Db, keyCache: KeyCache, { tenantId, id, version, sequence }: Watched): Promise<boolean> {
  const row = await db.withTenant({ tenantId, actor: "mayfly:identity" }, (tx) =>
    tx
      .selectFrom("trust_sources")
      .select(["kind", "issuer", "settings"])
      .where("tenant_id", "=", tenantId)
      .where("id", "=", id)
      .where("version", "=", version)
      .executeTakeFirst(),
  );
  const parsed = tokenSourceSchema.safeParse({ kind: row?.kind, issuer: row?.issuer, ...row?.settings });
  if (!parsed.success) return false;
  const floor = sequence === null ? {} : { leastSequence: sequence };
  keyCache.keysOf({ id, version, config: parsed.data, ...floor });
  return true;
}
