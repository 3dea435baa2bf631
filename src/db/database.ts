import { Kysely, PostgresDialect, sql, type Transaction } from "kysely";
import pg from "pg";
import { batcher, type RunBatch } from "../lib/batch.ts";
import { MayflyError } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import type { Database } from "./schema.ts";

export type Tx = Transaction<Database>;

/** Who a transaction acts for: the triggers write it into every audit event. */
export interface ActingFor {
  readonly tenantId: string;
  readonly actor: string;
  readonly requestId?: string;
}

/** The database as the runtime role sees it: nothing without a tenant, one tenant's rows with it. */
export interface Db extends AsyncDisposable {
  /**
   * Runs `work` in one transaction that sees one tenant. Retries up to three times what Postgres calls a deadlock or a
   * serialization failure, so `work` must have no effect outside the transaction.
   */
  withTenant<Result>(acting: ActingFor, work: (tx: Tx) => Promise<Result>): Promise<Result>;
  /** Calls a function of schema mayfly that looks across tenants (migrations/0005). */
  callAcrossTenants<Row>(name: string, args: readonly unknown[]): Promise<Row[]>;
  /** A hot-path function of schema mayfly as a call per item, batched per tenant (migrations/0004). */
  batched<Item, Row>(name: string): (tenantId: string, item: Item) => Promise<Row>;
  /** Calls a per-tenant function of schema mayfly that is no batch. */
  callForTenant<Row>(name: string, tenantId: string, args: readonly unknown[]): Promise<Row[]>;
  /**
   * The two calls over connections of their own. For what must not wait until a transaction lets go of a connection: who
   * listens for revocations takes silence for an outage.
   */
  readonly prompt: Pick<Db, "callAcrossTenants" | "callForTenant">;
  /** Throws unless the database answers and the role is one that row-level security binds. */
  check(): Promise<void>;
}

interface DbOptions {
  readonly connectionString: string;
  readonly log: Log;
  readonly maxConnections?: number;
  /** Statements slower than this are cancelled by the server, so that a request cannot hang on a lock. */
  readonly statementTimeoutMs?: number;
}

/** For the batched functions. Each has two statements under way at most for a tenant; more wait for a connection. */
const HOT_CONNECTIONS = 6;
const PROMPT_CONNECTIONS = 3;

/** Opens the pools. Connections are made when needed; {@link Db.check} is what fails early. */
export function openDatabase({
  connectionString,
  log,
  maxConnections = 10,
  statementTimeoutMs = 10_000,
}: DbOptions): Db {
  const open = (max: number): pg.Pool => {
    const opened = new pg.Pool({
      connectionString,
      max,
      connectionTimeoutMillis: 5_000,
      idle_in_transaction_session_timeout: 15_000,
      statement_timeout: statementTimeoutMs,
      lock_timeout: 5_000,
      keepAlive: true,
      application_name: "mayfly",
      // Compiling a plan takes longer than our statements run.
      options: "-c search_path=mayfly -c jit=off",
    });
    // Without listeners, a connection that is lost while idle, or between two statements of a transaction, would end the
    // process (reliability C11). Who uses it learns of it by its next statement.
    opened.on("error", (error) => log.warn({ err: error }, "an idle database connection was lost"));
    opened.on("connect", (client) => client.on("error", () => undefined));
    return opened;
  };
  const pool = open(maxConnections);
  // Of their own, so that transactions that wait for each other cannot keep a mint from the database.
  const hot = open(HOT_CONNECTIONS);
  const prompt = open(PROMPT_CONNECTIONS);
  const calls = (through: pg.Pool): Db["prompt"] => ({
    async callAcrossTenants<Row>(name: string, args: readonly unknown[]) {
      return (await query(through, call(name, args.length), [...args])).rows as Row[];
    },
    async callForTenant<Row>(name: string, tenantId: string, args: readonly unknown[]) {
      return (await query(through, call(name, args.length + 1), [tenantId, ...args])).rows as Row[];
    },
  });
  const kysely = new Kysely<Database>({ dialect: new PostgresDialect({ pool }) });

  return {
    async withTenant(acting, work) {
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await kysely.transaction().execute(async (tx) => {
            await sql`select set_config('mayfly.tenant', ${acting.tenantId}, true),
              set_config('mayfly.actor', ${acting.actor}, true),
              set_config('mayfly.request', ${acting.requestId ?? ""}, true)`.execute(tx);
            return work(tx);
          });
        } catch (error) {
          if (attempt < 3 && isRetryable(error)) continue;
          throw describeDatabaseError(error);
        }
      }
    },
    ...calls(pool),
    prompt: calls(prompt),
    batched<Item, Row>(name: string) {
      const text = `select * from mayfly.${name}($1, $2::jsonb) order by 1`;
      const run: RunBatch<Item, Row> = async (tenantId, items) => {
        for (let attempt = 1; ; attempt += 1) {
          try {
            const result = await query(hot, text, [tenantId, JSON.stringify(items)], `mayfly_${name}`);
            return result.rows as Row[];
          } catch (error) {
            if (attempt < 3 && isRetryable(error)) continue;
            throw error;
          }
        }
      };
      return batcher(run, { nothingWasDone: wasRolledBack });
    },
    async check() {
      const { rows } = await query(
        pool,
        `select r.rolsuper or r.rolbypassrls as bypasses,
            pg_has_role(r.oid, (select nspowner from pg_namespace where nspname = 'mayfly'), 'USAGE') as owns,
            pg_has_role(r.oid, 'mayfly_runtime', 'USAGE') as member
           from pg_roles r where r.rolname = current_user`,
        [],
      );
      const [role] = rows as { bypasses: boolean; owns: boolean | null; member: boolean }[];
      if (role === undefined || role.bypasses || role.owns !== false || !role.member) {
        throw new MayflyError(
          "unavailable",
          "DATABASE_URL must log in as a member of mayfly_runtime that neither owns the mayfly schema nor bypasses row-level security (deploy/postgres.sql)",
        );
      }
    },
    async [Symbol.asyncDispose]() {
      // Not `kysely.destroy()`: that ends the pool only if a transaction ever ran.
      for (const one of [pool, hot, prompt]) await one.end();
    },
  };
}

/** `40001` serialization failure, `40P01` deadlock: nothing was done, and the same again may well succeed. */
function isRetryable(error: unknown): boolean {
  const code = sqlState(error instanceof MayflyError ? error.cause : error);
  return code === "40001" || code === "40P01";
}

/**
 * Whether Postgres answered that it did none of it. False without an answer, or with a good-bye (`08`, `57P0`): what was
 * asked may have been committed.
 */
export function wasRolledBack(error: unknown): boolean {
  const answer = error instanceof MayflyError ? error.cause : error;
  return answer instanceof pg.DatabaseError && !/^(08|57P)/.test(answer.code ?? "08");
}

/** The SQLSTATE of a Postgres error, or undefined for any other. */
export function sqlState(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/** The violated constraint's name, for the few that mean something to a caller. */
export function constraintOf(error: unknown): string | undefined {
  if (error instanceof MayflyError && error.cause !== undefined) return constraintOf(error.cause);
  if (typeof error !== "object" || error === null || !("constraint" in error)) return undefined;
  return typeof error.constraint === "string" ? error.constraint : undefined;
}

async function query(pool: pg.Pool, text: string, values: unknown[], name?: string): Promise<pg.QueryResult> {
  try {
    return await pool.query(name === undefined ? { text, values } : { name, text, values });
  } catch (error) {
    throw describeDatabaseError(error);
  }
}

function call(name: string, arguments_: number): string {
  return `select * from mayfly.${name}(${Array.from({ length: arguments_ }, (_, index) => `$${index + 1}`).join(", ")})`;
}

/**
 * Connection trouble, time-outs, conflicts that went on and a database that takes no writes (`25006`, as after a failover)
 * become `unavailable` (deny, and say so); the rest stays what it is.
 */
function describeDatabaseError(error: unknown): unknown {
  if (error instanceof MayflyError) return error;
  const code = sqlState(error);
  const lost =
    (code !== undefined &&
      (/^(08|53|57|40)/.test(code) || ["25006", "55P03"].includes(code) || /^E[A-Z]+$/.test(code))) ||
    (error instanceof Error && /timeout|terminated|Connection ended|not queryable/i.test(error.message));
  return lost
    ? new MayflyError("unavailable", "the database did not answer in time", { cause: error, retryAfterSeconds: 1 })
    : error;
}
