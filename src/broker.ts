import { hkdfSync } from "node:crypto";
import { createRecorder, type RecordEvent } from "./audit/record.ts";
import type { Config } from "./config.ts";
import { type IntrospectSql, introspectSql } from "./credentials/introspect.ts";
import { type MintSql, mintSql } from "./credentials/mint-sql.ts";
import { type Db, openDatabase } from "./db/database.ts";
import { createIdempotencyStore } from "./db/idempotency.ts";
import { openEmbeddedStack, openStack, type Stack } from "./db/stack.ts";
import type { IdempotencyStore } from "./http/idempotency.ts";
import { createPager, type Pager } from "./http/page.ts";
import { createProofs, type Proofs } from "./identity/dpop.ts";
import { createKeyCache, type KeyCache } from "./identity/key-cache.ts";
import { createSafeFetch, type SafeFetch } from "./identity/safe-fetch.ts";
import { tenantIssuer } from "./identity/tenant-issuer.ts";
import { createBundleWatch } from "./identity/watch-bundles.ts";
import { type KeyAges, keyAges } from "./keys/ages.ts";
import { loadKeyEncryptionKey } from "./keys/kek.ts";
import { createSigningKeys, type SigningKeys } from "./keys/signing-keys.ts";
import type { Log } from "./lib/log.ts";
import { createSealer, type Sealer } from "./lib/seal.ts";
import { createMetrics, type Metrics, measureLedger } from "./metrics.ts";
import { createPolicies, type Policies } from "./policy/policies.ts";
import { openQueue } from "./queue/connection.ts";
import type { JobQueue, QueueConfig, WakeUps } from "./queue/queue.ts";
import { createStatusFeed, type StatusFeed } from "./status/feed.ts";
import { createStatusPlaces, type StatusPlaces } from "./status/places.ts";
import { createStatusLists, type StatusLists } from "./status/serve-lists.ts";
import { createTargetClients, type TargetClients } from "./targets/target-clients.ts";

/**
 * Everything that a process of Mayfly holds, opened once and passed down. A use case asks for the few members that it
 * needs; nothing below imports this file but the processes themselves (api.ts, worker.ts, bin, demo).
 */
export interface Broker extends AsyncDisposable {
  readonly config: Config;
  readonly log: Log;
  readonly stack: Stack;
  readonly db: Db;
  readonly queue: JobQueue;
  readonly wakeUps: WakeUps;
  readonly keys: SigningKeys;
  readonly keySealer: Sealer;
  readonly keyAges: KeyAges;
  readonly keyCache: KeyCache;
  /** Reads trust sources' keys that are due, SPIFFE bundles before anybody has asked. Never rejects: what failed is logged. */
  readonly refreshKeys: () => Promise<void>;
  /** Fetches what trust sources publish, and nothing that is not on the public internet (or this machine, if allowed). */
  readonly fetchJson: SafeFetch;
  readonly policies: Policies;
  readonly targets: TargetClients;
  readonly handles: Sealer;
  readonly targetConfigs: Sealer;
  readonly pager: Pager;
  readonly idempotency: IdempotencyStore;
  readonly proofs: Proofs;
  readonly record: RecordEvent;
  readonly metrics: Metrics;
  readonly sql: MintSql;
  readonly introspection: IntrospectSql;
  readonly statusPlaces: StatusPlaces;
  readonly statusFeed: StatusFeed;
  readonly statusLists: StatusLists;
  readonly limits: {
    readonly maxTtlSeconds: number;
    readonly defaultTtlSeconds: number;
    readonly maxUnrevocableTtlSeconds: number;
    readonly mintTimeoutSeconds: number;
  };
  readonly publicUrl: () => string;
  readonly issuerUrl: (tenantName: string) => string;
  /** With port 0 the public URL is known only once the API listens. */
  setPublicUrl(url: string): void;
  /** Where clients show certificates: the TLS listener, else where proxies end TLS. Absent when nowhere. */
  readonly mtlsUrl: () => string | undefined;
  /** The same for the TLS listener. */
  setTlsUrl(url: string): void;
}

/** Opens a broker, or fails with what to do about it. Disposing closes everything, the embedded database last. */
export async function openBroker(config: Config, log: Log): Promise<Broker> {
  const kek = await loadKeyEncryptionKey(config.kek, config.dataDir);
  const stack = await stackOf(config);
  const metrics = createMetrics();
  const db = openDatabase({ connectionString: stack.runtimeUrl, log });
  const closing: AsyncDisposable[] = [db, stack];
  try {
    await db.check();
    const queue = await openQueue(queueConfig(config, stack), log, "mayfly", { onMiss: metrics.wakeUpsMissed });
    closing.unshift(queue);
    measureLedger(metrics, db, queue);
    const targetConfigs = createSealer(kek, "target-config");
    const targets = createTargetClients(db, targetConfigs);
    closing.unshift(targets);
    const keySealer = createSealer(kek, "signing-key");
    let publicUrl = config.publicUrl;
    let tlsUrl = config.tls?.publicUrl;
    const fetchJson = createSafeFetch({ allowLoopbackHttp: config.allowLoopbackHttp });
    const publicUrlOf = (): string => publicUrl ?? `http://127.0.0.1:${config.port}`;
    const keyCache = createKeyCache({
      fetchJson,
      nowMs: () => performance.now(),
      report(event) {
        log[event.outcome === "failed" ? "warn" : "debug"](event, "trust source keys");
        metrics.keysRead(event.outcome, event.reason ?? "");
      },
    });
    const bundles = createBundleWatch(db, keyCache);
    const refreshKeys = async (): Promise<void> => {
      const report = (error: unknown): void => log.warn({ err: error }, "SPIFFE bundles could not be looked up");
      await bundles.announce().catch(report);
      await keyCache.refreshDue();
      await bundles.keepSequences().catch(report);
    };
    const keys = createSigningKeys({ db, keySealer });
    const issuerUrl = (tenantName: string): string => tenantIssuer(publicUrlOf(), tenantName);
    const statusFeed = createStatusFeed(db, log);
    const statusLists = createStatusLists({ db, keys, feed: statusFeed, issuerUrl });
    closing.unshift({
      async [Symbol.asyncDispose]() {
        statusLists[Symbol.dispose]();
        await statusFeed[Symbol.asyncDispose]();
      },
    });
    return {
      config,
      log,
      stack,
      db,
      queue,
      wakeUps: queue.wakeUps,
      keys,
      keySealer,
      keyAges: keyAges(config.keyRotationDays),
      fetchJson,
      keyCache,
      refreshKeys,
      policies: createPolicies(db),
      targets,
      handles: createSealer(kek, "handle"),
      targetConfigs,
      pager: createPager(macKeyOf(kek, "page-token")),
      idempotency: createIdempotencyStore(
        (tenantId, work) => db.withTenant({ tenantId, actor: "mayfly:idempotency" }, work),
        macKeyOf(kek, "idempotency"),
      ),
      proofs: createProofs({
        nonceKey: macKeyOf(kek, "dpop-nonce"),
        consume: db.batched("consume_once"),
        nowMs: () => Date.now(),
      }),
      record: createRecorder(db),
      metrics,
      sql: mintSql(db),
      introspection: introspectSql(db),
      statusPlaces: createStatusPlaces(db),
      statusFeed,
      statusLists,
      limits: {
        maxTtlSeconds: config.maxTtlSeconds,
        defaultTtlSeconds: config.defaultTtlSeconds,
        maxUnrevocableTtlSeconds: config.maxUnrevocableTtlSeconds,
        mintTimeoutSeconds: config.mintTimeoutSeconds,
      },
      publicUrl: publicUrlOf,
      issuerUrl,
      setPublicUrl(url) {
        publicUrl ??= url;
      },
      mtlsUrl: () => tlsUrl ?? (config.clientCertProxies.length > 0 ? publicUrlOf() : undefined),
      setTlsUrl(url) {
        tlsUrl ??= url;
      },
      async [Symbol.asyncDispose]() {
        for (const part of closing) await part[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    for (const part of closing) await part[Symbol.asyncDispose]();
    throw error;
  }
}

/** The key of one use, made from the key encryption key: the same in every process, and of no use for anything else. */
function macKeyOf(kek: Uint8Array, use: string): Uint8Array {
  return Buffer.from(hkdfSync("sha256", kek, Buffer.alloc(0), `mayfly/${use}/v1`, 32));
}

async function stackOf(config: Config): Promise<Stack> {
  if (config.embedded) return openEmbeddedStack(config.dataDir);
  if (config.databaseUrl === undefined)
    throw new Error("DATABASE_URL is not set: DATABASE_OWNER_URL alone is good for `mayfly migrate` and nothing else");
  return openStack(config.databaseUrl.reveal());
}

function queueConfig(config: Config, stack: Stack): QueueConfig {
  if (config.queue === "none") return { kind: "none" };
  if (config.redisUrl !== undefined) return { kind: "redis", url: config.redisUrl.reveal() };
  return { kind: "postgres", connectionString: stack.runtimeUrl };
}
