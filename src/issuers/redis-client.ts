import { Redis } from "ioredis";
import { MayflyError } from "../lib/errors.ts";
import { type Lane, type Link, type Loan, limitAnswers, openLane } from "./lanes.ts";
import { type TwoLanes, twoLanes } from "./two-lanes.ts";

/** How the nodes of one target are reached. */
interface RedisAddress {
  readonly nodes: readonly { readonly host: string; readonly port: number }[];
  readonly user: string;
  readonly password: string;
  readonly tls: "disable" | "verify-full";
  readonly ca?: string | undefined;
}

/** One command with its arguments. */
export type Command = readonly [string, ...string[]];

/** One connection to one node, lent for one piece of work. */
export interface Connection {
  /** Sends all at once and gives every answer; rejects with the first refusal among them. */
  ask(...commands: readonly Command[]): Promise<unknown[]>;
  /** The same, with nobody's command in between (MULTI). */
  atomically(...commands: readonly Command[]): Promise<unknown[]>;
}

/** One node. */
export interface RedisNode extends TwoLanes<Lane<Connection>> {
  /** `host:port`. */
  readonly at: string;
}

/** An open target. */
export interface RedisClient extends AsyncDisposable {
  readonly nodes: readonly RedisNode[];
}

const LANE_SIZE = 4;

/** Opens the lanes without connecting. */
export function connectRedis(address: RedisAddress): RedisClient {
  const nodes = address.nodes.map(({ host, port }) => {
    const lanes = twoLanes(() =>
      openLane(LANE_SIZE, {
        link: (loan) => openRedis(address, host, port, loan),
        keeps: (error) => error instanceof MayflyError || isReply(error),
        toMayflyError,
      }),
    );
    return { at: `${host}:${port}`, ...lanes };
  });
  return {
    nodes,
    async [Symbol.asyncDispose]() {
      await Promise.all(nodes.map((node) => node[Symbol.asyncDispose]()));
    },
  };
}

function openRedis(
  { user, password, tls, ca }: RedisAddress,
  host: string,
  port: number,
  loan: Loan,
): Link<Connection> {
  const redis = new Redis({
    host,
    port,
    ...(tls === "verify-full" && { tls: { rejectUnauthorized: true, ...(ca !== undefined && { ca }) } }),
    protocol: 2,
    lazyConnect: true,
    enableOfflineQueue: false,
    enableReadyCheck: false,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
    autoResubscribe: false,
    autoResendUnfulfilledCommands: false,
    disableClientInfo: true,
    connectTimeout: 2_000,
    commandTimeout: 5_000,
    keepAlive: 10_000,
  });
  // An error event that nobody listens to is printed; and what comes after it says less.
  redis.on("error", (error: unknown) => loan.fail(error));
  redis.on("connect", () => limitAnswers(redis.stream, loan, "Redis"));
  const send = async (commands: readonly Command[], whole: boolean): Promise<unknown[]> => {
    loan.received = 0;
    const batch = whole ? redis.multi() : redis.pipeline();
    for (const [name, ...args] of commands) batch.call(name, ...args);
    const answers = (await batch.exec()) ?? [];
    loan.answered ||= answers.some(([error]) => error === null || isReply(error));
    for (const [error] of answers) if (error !== null) throw error;
    return answers.map(([, answer]) => answer);
  };
  return {
    async open() {
      await redis.connect();
      // The driver would print what an old server says to a user's name.
      await redis.call("AUTH", user, password);
    },
    connection: {
      ask: (...commands) => send(commands, false),
      atomically: (...commands) => send(commands, true),
    },
    usable: () => redis.status === "ready",
    destroy() {
      // `disconnect` alone waits for the other side, and 2 s for what is closed.
      if (redis.status !== "end") redis.disconnect();
      (redis.stream as typeof redis.stream | undefined)?.destroy();
    },
  };
}

function isReply(error: unknown): error is Error {
  return error instanceof Error && error.name === "ReplyError";
}

/** Error words of Redis that pass by themselves, or with a repair of the server. All others are refusals. */
const PASSING = new Set([
  "LOADING",
  "BUSY",
  "TRYAGAIN",
  "CLUSTERDOWN",
  "MASTERDOWN",
  "READONLY",
  "MISCONF",
  "NOREPLICAS",
  "OOM",
]);
/** What refusals mean that the admin of a target can put right. */
const MEANS: Readonly<Record<string, string>> = {
  WRONGPASS: "the admin's user or password is not the server's, or the user is off",
  NOPERM: "the admin lacks a right; registration and the next canary say which",
  DENIED: "in protected mode it answers its own machine alone",
};
/** These begin with ERR like everything else, and pass. Compared with, never shown. */
const PASSING_ERR = /^ERR (max number of clients reached|There was an error trying to save the ACLs)/;

// What Redis says may repeat what it was sent, and ioredis adds the arguments to the error: the first word leaves, no cause.
function toMayflyError(error: unknown, signal: AbortSignal): MayflyError {
  if (error instanceof MayflyError) return error;
  if (isReply(error)) {
    const word = /^[A-Z]{2,20}(?= |$)/.exec(error.message)?.[0] ?? "ERR";
    if (PASSING.has(word) || PASSING_ERR.test(error.message)) {
      return new MayflyError("target_unavailable", `Redis cannot do it now (${word})`);
    }
    if (error.message.includes("not configured to use an ACL file")) {
      return new MayflyError("target_rejected", "Redis keeps no ACL file: what is taken back would be there again");
    }
    if (error.message.startsWith("ERR wrong number of arguments for 'auth'")) {
      return new MayflyError("target_rejected", "Redis 7.0 or newer is needed, or Valkey: this one has no users");
    }
    const means = MEANS[word];
    return new MayflyError("target_rejected", `Redis refused (${word})${means === undefined ? "" : `: ${means}`}`);
  }
  if (signal.aborted) return new MayflyError("target_unavailable", "Redis was given up on before it answered");
  const code = typeof error === "object" && error !== null && "code" in error ? String(error.code) : "";
  const suffix = /^[A-Z_]{3,50}$/.test(code) ? ` (${code})` : "";
  return /CERT|TLS|SSL|ISSUER|SELF_SIGNED/.test(code)
    ? new MayflyError("target_rejected", `Redis's certificate was not accepted${suffix}`)
    : new MayflyError("target_unavailable", `Redis did not answer${suffix}`);
}
