import pg from "pg";
import { MayflyError } from "../lib/errors.ts";
import { stopSignal, turnstile, unlessAborted } from "./turns.ts";

/** What a connection to one target needs to know. */
interface PostgresAddress {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
  readonly password: string;
  readonly tls: "disable" | "verify-full";
  readonly ca?: string | undefined;
}

/** One connection, lent for one piece of work. */
export interface Connection {
  /**
   * A constant statement, prepared once per connection: planning the catalog views costs more than reading them. The
   * first on a connection must be a read, because it is sent again when a connection from the pool turns out dead.
   */
  read<Row>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /**
   * A plpgsql block, in a transaction of its own and one round trip. It finds its inputs as `current_setting('mayfly.…')`:
   * so its text is constant, and the names of credentials do not crowd the owner's statements out of pg_stat_statements.
   */
  run(block: string, inputs: Readonly<Record<string, string | number>>): Promise<void>;
  /** What the server said at login that this process is, before any statement. A pooler says something else. */
  readonly announcedPid: number | null;
}

/**
 * A few connections of their own for one sort of work. Work waits its turn; when `signal` aborts or `withinMs` is
 * over, waiting ends and a lent connection is destroyed. Whatever fails comes out as a {@link MayflyError}.
 */
interface Lane {
  use<Result>(
    signal: AbortSignal,
    withinMs: number,
    work: (connection: Connection) => Promise<Result>,
  ): Promise<Result>;
}

/** An open target. Mints and revokes do not share connections, so a burst of mints cannot hold up a revoke. */
export interface PostgresClient extends AsyncDisposable {
  readonly mint: Lane;
  readonly revoke: Lane;
}

const LANE_SIZE = 8;

/** Opens the lanes without connecting. */
export function connectPostgres(address: PostgresAddress): PostgresClient {
  const mint = openLane(address, LANE_SIZE);
  const revoke = openLane(address, LANE_SIZE);
  return {
    mint: mint.lane,
    revoke: revoke.lane,
    async [Symbol.asyncDispose]() {
      await Promise.all([mint.pool.end(), revoke.pool.end()]);
    },
  };
}

/** Whether the target itself answered with one of these SQLSTATEs. */
export function hasSqlState(error: unknown, ...states: readonly string[]): boolean {
  return error instanceof pg.DatabaseError && error.code !== undefined && states.includes(error.code);
}

/** Our own SQLSTATE, raised on the target when a create arrives after its create-by time. */
export const TOO_LATE = "MF001";

function openLane(address: PostgresAddress, size: number): { lane: Lane; pool: pg.Pool } {
  const pool = new pg.Pool({
    host: address.host,
    port: address.port,
    database: address.database,
    user: address.user,
    password: address.password,
    ssl: address.tls === "disable" ? false : { rejectUnauthorized: true, ...(address.ca && { ca: address.ca }) },
    application_name: "mayfly",
    max: size,
    connectionTimeoutMillis: 2_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    statement_timeout: 5_000,
    lock_timeout: 2_000,
    idle_in_transaction_session_timeout: 5_000,
    // Whoever may create in a schema of the path could overload an operator of our statements and run as the admin.
    options: "-c search_path=pg_catalog",
  });
  // Without a listener, an idle connection that the target closes would end this process (reliability C11).
  pool.on("error", ignore);
  // The pool's own queue gives up after connectionTimeoutMillis and cannot be left early, so the waiting is done here.
  const turns = turnstile(size);
  return {
    pool,
    lane: {
      async use(signal, withinMs, work) {
        using deadline = stopSignal(signal, withinMs);
        try {
          using _turn = await turns.enter(deadline.signal);
          return await lend(pool, deadline.signal, work);
        } catch (error) {
          throw toMayflyError(error, deadline.signal);
        }
      },
    },
  };
}

async function lend<Result>(
  pool: pg.Pool,
  signal: AbortSignal,
  work: (connection: Connection) => Promise<Result>,
): Promise<Result> {
  let client: pg.PoolClient | undefined;
  const giveBack = (destroy: boolean): void => {
    // A destroyed one keeps its listener: it may still have something to say.
    if (!destroy) client?.off("error", ignore);
    client?.release(destroy);
    client = undefined;
  };
  const borrow = async (): Promise<pg.PoolClient> => {
    // A log-in that hangs is left to end by itself.
    const borrowed = await unlessAborted(signal, pool.connect(), (late) => late.on("error", ignore).release(true));
    // The pool listens to idle connections only; a lent one that breaks would end this process.
    client = borrowed.on("error", ignore);
    signal.throwIfAborted();
    return borrowed;
  };
  // Destroying the socket is the only way to stop waiting for an answer; a cancel request could hit a later statement.
  const abandon = (): void => giveBack(true);
  signal.addEventListener("abort", abandon, { once: true });
  let used = false;
  const send = async <Answer>(ask: (client: pg.PoolClient) => Promise<Answer>): Promise<Answer> => {
    signal.throwIfAborted();
    try {
      return await ask(client ?? (await borrow()));
    } catch (error) {
      if (used || signal.aborted || !isLost(error)) throw error;
      giveBack(true);
      return await ask(await borrow());
    } finally {
      used = true;
    }
  };
  try {
    const borrowed = await borrow();
    return await work({
      read: async <Row>(text: string, values: readonly unknown[] = []) =>
        (await send((on) => on.query({ name: statementName(text), text, values: [...values] }))).rows as Row[],
      run: async (block, inputs) => {
        const settings = Object.entries(inputs).map(
          ([name, value]) => `set_config('mayfly.${name}', ${pg.escapeLiteral(String(value))}, true)`,
        );
        await send((on) => on.query(`select ${settings.join(", ")}; do $mayfly$ ${block} $mayfly$`));
      },
      announcedPid: (borrowed as unknown as { readonly processID: number | null }).processID,
    });
  } catch (error) {
    // An answer with a SQLSTATE leaves the connection in a known state; anything else does not.
    if (isLost(error)) giveBack(true);
    throw error;
  } finally {
    signal.removeEventListener("abort", abandon);
    giveBack(false);
  }
}

function ignore(): void {}

const statementNames = new Map<string, string>();

function statementName(text: string): string {
  const name = statementNames.get(text) ?? `mayfly_${statementNames.size}`;
  statementNames.set(text, name);
  return name;
}

/** Everything that is not an answer of the server, and its three good-byes (57P01 to 57P03). */
function isLost(error: unknown): boolean {
  if (error instanceof MayflyError) return false;
  return !(error instanceof pg.DatabaseError) || /^(08|57P0)/.test(error.code ?? "");
}

function toMayflyError(error: unknown, signal: AbortSignal): MayflyError {
  if (error instanceof MayflyError) return error;
  if (signal.aborted) {
    return new MayflyError("target_unavailable", "PostgreSQL was given up on before it answered", { cause: error });
  }
  if (!(error instanceof pg.DatabaseError)) return connectionError(error);
  const state = error.code ?? "without SQLSTATE";
  if (state === TOO_LATE) {
    const detail = `the request reached PostgreSQL after its create-by time; nothing was created (SQLSTATE ${state})`;
    return new MayflyError("target_unavailable", detail, { cause: error });
  }
  // Connection, transaction conflict, resources, operator, system, internal; read-only after a failover; lock timeout.
  const passing = /^(08|40|53|57|58|XX)|^25006$|^55P03$/.test(state);
  return passing
    ? new MayflyError("target_unavailable", `PostgreSQL cannot do it now (SQLSTATE ${state})`, { cause: error })
    : new MayflyError("target_rejected", `PostgreSQL refused (SQLSTATE ${state})`, { cause: error });
}

function connectionError(error: unknown): MayflyError {
  if (error instanceof Error && error.message === "The server does not support SSL connections") {
    return new MayflyError("target_rejected", "PostgreSQL does not offer TLS", { cause: error });
  }
  const code = typeof error === "object" && error !== null && "code" in error ? String(error.code) : undefined;
  const suffix = code === undefined ? "" : ` (${code})`;
  if (code !== undefined && /CERT|TLS|SSL|ISSUER|SELF_SIGNED/.test(code)) {
    return new MayflyError("target_rejected", `PostgreSQL's certificate was not accepted${suffix}`, { cause: error });
  }
  return new MayflyError("target_unavailable", `PostgreSQL did not answer${suffix}`, { cause: error });
}
