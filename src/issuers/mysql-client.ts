import type { Duplex } from "node:stream";
import { type ConnectionOptions, createConnection } from "mysql2";
import { MayflyError } from "../lib/errors.ts";
import { type Lane, type Link, type Loan, limitAnswers, openLane } from "./lanes.ts";
import { type TwoLanes, twoLanes } from "./two-lanes.ts";

/** What a connection to one target needs to know. */
interface MysqlAddress {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly tls: "disable" | "verify-full";
  readonly ca?: string | undefined;
}

/** One connection, lent for one piece of work. */
export interface Connection {
  /** One statement, as a rule a read. */
  read<Row>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /**
   * Statements in one packet, so that nothing but the server itself comes between them; the first that fails is the last. Returns
   * the rows of the last. They are no transaction: the server commits what changes accounts at once. Takes no values: everything in
   * them must be quoted.
   */
  run<Row>(statements: readonly string[]): Promise<Row[]>;
  /** What the server called this connection when it greeted us. A proxy says something else. */
  readonly announcedId: number | undefined;
}

export type MysqlClient = TwoLanes<Lane<Connection>>;

const LANE_SIZE = 8;

/** Opens the lanes without connecting. */
export function connectMysql(address: MysqlAddress): MysqlClient {
  // What failed half way may have left a lock or a role on its connection: none is kept.
  return twoLanes(() =>
    openLane(LANE_SIZE, { link: (loan) => openMysql(address, loan), keeps: () => false, toMayflyError }),
  );
}

/** A string literal of SQL. Doubling the quote is right in every sql_mode, as long as there is no backslash: that is refused. */
export function quote(text: string): string {
  if (text.includes("\\")) throw new MayflyError("internal", "a backslash in a statement");
  return `'${text.replaceAll("'", "''")}'`;
}

/** Whether the target itself answered with one of these error numbers. Inside of a lane's work only. */
export function hasErrno(error: unknown, ...numbers: readonly number[]): boolean {
  const answer = answerOf(error);
  return answer !== undefined && numbers.includes(answer.errno);
}

function options(address: MysqlAddress): ConnectionOptions {
  return {
    host: address.host,
    port: address.port,
    user: address.user,
    password: address.password,
    ...(address.tls === "disable"
      ? {}
      : {
          ssl: {
            rejectUnauthorized: true,
            verifyIdentity: true,
            minVersion: "TLSv1.2",
            ...(address.ca === undefined ? {} : { ca: address.ca }),
          },
        }),
    connectTimeout: 2_000,
    enableKeepAlive: true,
    keepAliveInitialDelay: 10_000,
    multipleStatements: true,
    // A server may ask for any file of this machine (LOCAL INFILE) and for the password in clear.
    flags: ["-LOCAL_FILES"],
    enableCleartextPlugin: false,
    // The driver compiles a parser for each answer out of text that the server sent.
    disableEval: true,
    connectAttributes: { program_name: "mayfly" },
  };
}

/** What the driver keeps to itself. */
interface Inner {
  readonly stream: Duplex;
  readonly sequenceId: number;
  handlePacket(packet?: { readonly sequenceId: number }): void;
  startTLS(onSecure: (error?: unknown) => void): void;
}

function openMysql(address: MysqlAddress, loan: Loan): Link<Connection> {
  const client = createConnection(options(address));
  const inner = client as unknown as Inner;
  let over = false;
  // Without a listener, a connection that breaks between two statements would end this process (reliability C11).
  client.on("error", (error: unknown) => {
    over = true;
    loan.fail(error);
  });
  client.on("end", () => {
    over = true;
  });
  const destroy = (): void => {
    over = true;
    client.destroy();
    inner.stream.destroy();
  };
  const { handlePacket, startTLS } = inner;
  // The driver prints a line for each packet that is out of order, and a far side could send millions.
  inner.handlePacket = (packet) => {
    if (over) return;
    if (packet === undefined || packet.sequenceId === inner.sequenceId) return handlePacket.call(client, packet);
    loan.fail(Object.assign(new Error("out of order"), { code: "PROTOCOL_PACKETS_OUT_OF_ORDER" }));
    destroy();
  };
  limitAnswers(inner.stream, loan, "MySQL");
  inner.startTLS = (onSecure) => {
    startTLS.call(client, onSecure);
    limitAnswers(inner.stream, loan, "MySQL");
  };
  const send = (text: string, values: readonly unknown[] = []): Promise<unknown> => {
    loan.received = 0;
    return new Promise((resolve, reject) => {
      client.query(text, [...values], (error, result) => {
        loan.answered ||= error === null || !isLost(error);
        if (error === null) resolve(result);
        else reject(error);
      });
    });
  };
  return {
    open: () => new Promise<void>((resolve) => client.once("connect", () => resolve())),
    connection: {
      read: async <Row>(text: string, values: readonly unknown[] = []) => rows<Row>(await send(text, values)),
      run: async <Row>(statements: readonly string[]) => {
        const results = await send(statements.join("; "));
        return rows<Row>(statements.length > 1 && Array.isArray(results) ? results.at(-1) : results);
      },
      get announcedId() {
        return client.threadId ?? undefined;
      },
    },
    usable: () => !over,
    end: () => client.end(ignore),
    destroy,
  };
}

/** A statement without rows answers with an object. */
function rows<Row>(result: unknown): Row[] {
  return Array.isArray(result) ? (result as Row[]) : [];
}

function ignore(): void {}

interface Answer {
  readonly errno: number;
  readonly sqlState: string;
}

/** The server's own refusal. All else is the connection's, or the driver's, end. */
function answerOf(error: unknown): Answer | undefined {
  if (typeof error !== "object" || error === null || !("errno" in error) || !("sqlState" in error)) return undefined;
  const { errno, sqlState } = error;
  // What broke may look like an answer: only the digits of one are ever said again.
  return typeof errno === "number" && typeof sqlState === "string" && /^[0-9A-Z]{5}$/.test(sqlState)
    ? { errno, sqlState }
    : undefined;
}

function isLost(error: unknown): boolean {
  if (error instanceof MayflyError) return false;
  const answer = answerOf(error);
  return answer === undefined || GOOD_BYE.includes(answer.errno) || answer.sqlState.startsWith("08");
}

/** Shutdown, killed, and MySQL's and MariaDB's "idle for too long". */
const GOOD_BYE: readonly number[] = [1053, 1317, 1927, 4031];

/**
 * Resources, locks, shutdown and limits; 1290 and 1836 are a server that was made read-only, after a failover. Those whose SQLSTATE
 * says it (08 connection, 40 conflict, 70100 interrupted) are not here.
 */
const PASSING: readonly number[] = [
  1021, 1037, 1038, 1041, 1053, 1114, 1129, 1135, 1203, 1205, 1223, 1226, 1290, 1836, 1969, 3024, 3100, 3169, 4031,
];

// No cause anywhere: an error of the driver holds the statement.
function toMayflyError(error: unknown, signal: AbortSignal): MayflyError {
  if (error instanceof MayflyError) return error;
  if (signal.aborted) return new MayflyError("target_unavailable", "MySQL was given up on before it answered");
  const answer = answerOf(error);
  if (answer === undefined) return connectionError(error);
  const { errno, sqlState } = answer;
  const suffix = `(error ${errno}, SQLSTATE ${sqlState})`;
  return PASSING.includes(errno) || /^(08|40|70)/.test(sqlState)
    ? new MayflyError("target_unavailable", `MySQL cannot do it now ${suffix}`)
    : new MayflyError("target_rejected", `MySQL refused ${suffix}${meaning(errno)}`);
}

/** What the admin of a target can put right. */
function meaning(errno: number): string {
  const means = MEANS[errno];
  return means === undefined ? "" : `: ${means}`;
}

const MEANS: Readonly<Record<number, string>> = {
  1045: "the admin's user or password is not the server's, or is not for where Mayfly is",
  1130: "it lets nobody in from where Mayfly is",
  3159: "it wants TLS",
  4151: "the admin's account is locked",
};

function connectionError(error: unknown): MayflyError {
  const code = typeof error === "object" && error !== null && "code" in error ? String(error.code) : "";
  if (code === "HANDSHAKE_NO_SSL_SUPPORT") return new MayflyError("target_rejected", "MySQL does not offer TLS");
  if (code.startsWith("AUTH_SWITCH_PLUGIN")) {
    return new MayflyError("target_rejected", "MySQL asks the admin for a kind of log-in that Mayfly does not do");
  }
  const suffix = /^[A-Z0-9_]{1,64}$/.test(code) ? ` (${code})` : "";
  if (/CERT|TLS|SSL|ISSUER|SELF_SIGNED/.test(code)) {
    return new MayflyError("target_rejected", `MySQL's certificate was not accepted${suffix}`);
  }
  return new MayflyError("target_unavailable", `MySQL did not answer${suffix}`);
}
