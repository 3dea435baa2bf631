import { createHmac } from "node:crypto";
import { sql } from "kysely";
import {
  type Begun,
  IDEMPOTENCY_RETENTION_HOURS,
  type IdempotencyScope,
  type IdempotencyStore,
  type StoredReply,
} from "../http/idempotency.ts";
import { canonicalJson } from "../lib/canonical-json.ts";
import type { Tx } from "./database.ts";

/** Runs `work` in a transaction that sees this tenant alone. */
export type RunInTenant = <Result>(tenantId: string, work: (tx: Tx) => Promise<Result>) => Promise<Result>;

// Twice the time limit of a request: a handler that nobody waits for any more still has that long to end and to
// keep its outcome. After it, its process is taken for dead and the key runs again.
const LOCK_SECONDS = 60;

interface KeyRow {
  readonly fingerprint: string;
  readonly state: "running" | "done";
  readonly status: number | null;
  readonly reply: Omit<StoredReply, "status"> | null;
}

/**
 * Idempotency keys in Postgres (`idempotency_keys`). Each call is a transaction of its own: the key is locked before
 * the work begins and committed, so it holds across processes. The primary key decides between concurrent firsts.
 *
 * A body may hold a password, which its plain hash would let a reader of the table guess. What is kept of a fingerprint
 * is its MAC with its scope. `macKey` has 32 bytes, the same in every process of a deployment.
 */
export function createIdempotencyStore(runInTenant: RunInTenant, macKey: Uint8Array): IdempotencyStore {
  if (macKey.byteLength !== 32) throw new RangeError("the idempotency key must be 32 bytes");
  const macOf = ({ tenantId, subject, route, key }: IdempotencyScope, fingerprint: string): string =>
    createHmac("sha256", macKey)
      .update(canonicalJson([tenantId, subject, route, key, fingerprint]))
      .digest("hex");
  return {
    begin: (scope, fingerprint) => runInTenant(scope.tenantId, (tx) => begin(tx, scope, macOf(scope, fingerprint))),

    finish: (scope, lease, { status, ...reply }) =>
      runInTenant(scope.tenantId, async (tx) => {
        await sql`update idempotency_keys
          set state = 'done', status = ${status}, reply = ${JSON.stringify(reply)}::jsonb, locked_until = null
          where ${held(scope, lease)}`.execute(tx);
      }),

    abandon: (scope, lease) =>
      runInTenant(scope.tenantId, async (tx) => {
        await sql`delete from idempotency_keys where ${held(scope, lease)}`.execute(tx);
      }),
  };
}

async function begin(tx: Tx, scope: IdempotencyScope, fingerprint: string): Promise<Begun> {
  const { tenantId, subject, route, key } = scope;
  // A key that is out of date, or whose holder died, is taken over in place; the lock time is the lease.
  const taken = await sql<{ lease: string }>`
    insert into idempotency_keys as present (tenant_id, subject, route, key, fingerprint, state, locked_until)
    values (${tenantId}, ${subject}, ${route}, ${key}, ${fingerprint}, 'running',
            clock_timestamp() + make_interval(secs => ${LOCK_SECONDS}))
    on conflict (tenant_id, subject, route, key) do update
      set fingerprint = excluded.fingerprint, state = 'running', status = null, reply = null,
          locked_until = excluded.locked_until, created_at = clock_timestamp()
      where (present.state = 'running' and present.locked_until < clock_timestamp()
             and present.fingerprint = excluded.fingerprint)
         or present.created_at < clock_timestamp() - make_interval(hours => ${IDEMPOTENCY_RETENTION_HOURS})
    returning locked_until::text as lease`.execute(tx);
  const [won] = taken.rows;
  if (won !== undefined) return { state: "new", lease: won.lease };

  const present = await sql<KeyRow>`
    select fingerprint, state, status, reply from idempotency_keys
    where tenant_id = ${tenantId} and subject = ${subject} and route = ${route} and key = ${key}`.execute(tx);
  const [row] = present.rows;
  // Abandoned between the two statements: the next try gets it.
  if (row === undefined) return { state: "running" };
  if (row.fingerprint !== fingerprint) return { state: "mismatch" };
  if (row.state === "running" || row.status === null || row.reply === null) return { state: "running" };
  return { state: "done", reply: { status: row.status, ...row.reply } };
}

function held({ tenantId, subject, route, key }: IdempotencyScope, lease: string) {
  return sql`tenant_id = ${tenantId} and subject = ${subject} and route = ${route} and key = ${key}
    and state = 'running' and locked_until = ${lease}::timestamptz`;
}
