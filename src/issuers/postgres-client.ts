import type { Duplex } from "node:stream";
import pg from "pg";
import { MayflyError } from "../lib/errors.ts";
import { type Lane, type Link, type Loan, limitAnswers, openLane } from "./lanes.ts";
import { type TwoLanes, twoLanes } from "./two-lanes.ts";

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
  /** A constant statement, prepared once per connection: planning the catalog views costs more than reading them. */
  read<Row>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /**
   * A plpgsql block, in a transaction of its own and one round trip. It finds its inputs as `current_setting('mayfly.…')`:
   * so its text is constant, and the names of credentials do not crowd the owner's statements out of pg_stat_statements.
   */
  run(block: string, inputs: Readonly<Record<string, string | number>>): Promise<void>;
  /** What the server said at login that this process is, before any statement. A pooler says something else. */
  readonly announcedPid: number | null;
}

export type PostgresClient = TwoLanes<Lane<Connection>>;

const LANE_SIZE = 8;

/** Opens the lanes without connecting. */
export function connectPostgres(address: PostgresAddress): PostgresClient {
  return twoLanes(() =>
    openLane(LANE_SIZE, {
      link: (loan) => openPostgres(address, loan),
      keeps: (error) => !isLost(error),
      toMayflyError,
    }),
  );
}

/** Whether the target itself answered with one of these SQLSTATEs. */
export function hasSqlState(error: unknown, ...states: readonly string[]): boolean {
  return error instanceof pg.DatabaseError && error.code !== undefined && states.includes(error.code);
}

/** Our own SQLSTATE, raised on the target when a create arrives after its create-by time. */
export const TOO_LATE = "MF001";

/** What the driver keeps to itself. */
interface Inner {
  readonly connection: { readonly stream: Duplex; on(event: "connect" | "sslconnect", listener: () => void): unknown };
  readonly processID: number | null;
}

function openPostgres(address: PostgresAddress, loan: Loan): Link<Connection> {
  const client = new pg.Client({
    host: address.host,
    port: address.port,
    database: address.database,
    user: address.user,
    password: address.password,
    ssl: address.tls === "disable" ? false : { rejectUnauthorized: true, ...(address.ca && { ca: address.ca }) },
    application_name: "mayfly",
    connectionTimeoutMillis: 2_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    statement_timeout: 5_000,
    lock_timeout: 2_000,
    idle_in_transaction_session_timeout: 5_000,
    // Whoever may create in a schema of the path could overload an operator of our statements and run as the admin.
    options: "-c search_path=pg_catalog",
  });
  const inner = client as unknown as Inner;
  let over = false;
  const stop = (): void => {
    over = true;
  };
  // Without a listener, a connection that the target closes would end this process (reliability C11).
  client.on("error", stop).on("end", stop);
  inner.connection.on(address.tls === "disable" ? "connect" : "sslconnect", () =>
    limitAnswers(inner.connection.stream, loan, "PostgreSQL"),
  );
  const send = async (statement: string | pg.QueryConfig): Promise<unknown[]> => {
    loan.received = 0;
    try {
      const { rows } = await client.query(statement);
      loan.answered = true;
      return rows as unknown[];
    } catch (error) {
      loan.answered ||= !isLost(error);
      throw error;
    }
  };
  return {
    open: () => client.connect(),
    connection: {
      read: async <Row>(text: string, values: readonly unknown[] = []) =>
        (await send({ name: statementName(text), text, values: [...values] })) as Row[],
      run: async (block, inputs) => {
        const settings = Object.entries(inputs).map(
          ([name, value]) => `set_config('mayfly.${name}', ${pg.escapeLiteral(String(value))}, true)`,
        );
        await send(`select ${settings.join(", ")}; do $mayfly$ ${block} $mayfly$`);
      },
      get announcedPid() {
        return inner.processID;
      },
    },
    usable: () => !over,
    end: () => void client.end().catch(stop),
    // A cancel request could hit a later statement.
    destroy: () => void inner.connection.stream.destroy(),
  };
}

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
    : new MayflyError("target_rejected", `PostgreSQL refused (SQLSTATE ${state})${meaning(state)}`, { cause: error });
}

/** What the admin of a target can put right. */
function meaning(state: string): string {
  const means = MEANS[state];
  return means === undefined ? "" : `: ${means}`;
}

const MEANS: Readonly<Record<string, string>> = {
  "28P01": "the admin's user or password is not the server's",
  "3D000": "it has no such database",
};

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
