import type { Db } from "../db/database.ts";
import { type AnyIssuer, anyIssuer, downstreamIssuer } from "../issuers/registry.ts";
import { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import type { Sealer } from "../lib/seal.ts";

/** A target's configuration as its issuer parsed it, for one version of the target. */
export interface TargetConfig {
  readonly issuerKind: string;
  readonly version: number;
  readonly config: unknown;
}

/** Opened targets, one per version: configuration unsealed once, connections shared by all mints and revokes. */
export interface TargetClients extends AsyncDisposable {
  /** The configuration at this version, or the newest when `version` is left out. Throws `unavailable` when it cannot be opened. */
  config(tenantId: string, targetId: string, version?: number): Promise<TargetConfig>;
  /**
   * A connected client of a downstream target and its issuer. Throws `target_unavailable` when it cannot connect, or, with
   * `onlyIfOpen`, when it would have to: inside a transaction nobody waits for a network.
   */
  connect(
    tenantId: string,
    targetId: string,
    version?: number,
    onlyIfOpen?: boolean,
  ): Promise<{ readonly issuer: AnyIssuer; readonly client: AsyncDisposable; readonly config: unknown }>;
}

interface Opened {
  readonly target: TargetConfig;
  client: Promise<AsyncDisposable> | undefined;
}

/**
 * How long a revoke may keep using a configuration without asking whether there is a newer one. A mint never does: it
 * names the version that it read in the same request.
 */
const TRUSTED_MS = 5_000;

/** What authenticates a target's sealed configuration beside its text. */
export function targetSealContext(tenantId: string, targetId: string): string {
  return `${tenantId}/${targetId}`;
}

export function createTargetClients(db: Db, sealer: Sealer): TargetClients {
  const opened = new Map<string, { readonly at: number; readonly entry: Promise<Opened> }>();

  const read = async (tenantId: string, targetId: string): Promise<Opened> => {
    const row = await db.withTenant({ tenantId, actor: "mayfly:targets" }, (tx) =>
      tx
        .selectFrom("targets")
        .select(["issuer", "config_sealed", "version"])
        .where("tenant_id", "=", tenantId as Id<"tenant">)
        .where("id", "=", targetId as Id<"target">)
        .executeTakeFirst(),
    );
    const issuer = row === undefined ? undefined : anyIssuer(row.issuer);
    if (row === undefined || issuer === undefined)
      throw new MayflyError("target_unavailable", "the target cannot be opened by this version of Mayfly");
    const text = sealer.open(row.config_sealed, targetSealContext(tenantId, targetId));
    const config: unknown = issuer.config.parse(JSON.parse(text));
    return { target: { issuerKind: row.issuer, version: row.version, config }, client: undefined };
  };

  const entryOf = async (tenantId: string, targetId: string, version: number | undefined): Promise<Opened> => {
    const key = `${tenantId}/${targetId}`;
    const known = opened.get(key);
    if (known !== undefined) {
      const entry = await known.entry.catch(() => undefined);
      const good =
        version === undefined ? performance.now() - known.at < TRUSTED_MS : entry?.target.version === version;
      if (entry !== undefined && good) return entry;
    }
    const latest = opened.get(key);
    if (latest !== undefined && latest !== known) return latest.entry;
    const fresh = read(tenantId, targetId).then(async (entry) => {
      const before = await known?.entry.catch(() => undefined);
      if (before === undefined) return entry;
      // Same version: the connections go on. A newer one: the old close when those who use them are done.
      if (before.target.version === entry.target.version) return before;
      void before.client?.then((client) => client[Symbol.asyncDispose]()).catch(() => undefined);
      return entry;
    });
    opened.set(key, { at: performance.now(), entry: fresh });
    fresh.catch(() => opened.delete(key));
    return fresh;
  };

  return {
    async config(tenantId, targetId, version) {
      return (await entryOf(tenantId, targetId, version)).target;
    },
    async connect(tenantId, targetId, version, onlyIfOpen = false) {
      const entry = await entryOf(tenantId, targetId, version);
      const issuer = downstreamIssuer(entry.target.issuerKind);
      if (issuer === undefined) throw new MayflyError("internal", "the target has no far side");
      if (onlyIfOpen && entry.client === undefined)
        throw new MayflyError("target_unavailable", "the target is being changed again and again");
      entry.client ??= issuer.connect(entry.target.config);
      try {
        return { issuer, client: await entry.client, config: entry.target.config };
      } catch (error) {
        entry.client = undefined;
        if (error instanceof MayflyError) throw error;
        throw new MayflyError("target_unavailable", "the target system could not be reached", { cause: error });
      }
    },
    async [Symbol.asyncDispose]() {
      const entries = await Promise.allSettled([...opened.values()].map(({ entry }) => entry));
      opened.clear();
      for (const entry of entries) {
        if (entry.status !== "fulfilled") continue;
        const client = await entry.value.client?.catch(() => undefined);
        await client?.[Symbol.asyncDispose]();
      }
    },
  };
}
