import { Redis } from "ioredis";
import { MayflyError } from "../lib/errors.ts";
import { stopSignal, turnstile } from "./turns.ts";

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

/**
 * A few connections of their own for one sort of work. Work waits its turn; when `signal` aborts or `withinMs` is over, waiting
 * ends and a lent connection is destroyed. Whatever fails comes out as a {@link MayflyError}. Work is begun again when a
 * connection that was kept turns out dead before its first answer.
 */
interface Lane {
  use<Result>(
    signal: AbortSignal,
    withinMs: number,
    work: (connection: Connection) => Promise<Result>,
  ): Promise<Result>;
}

/** One node. Mints and revokes do not share connections, so a burst of mints cannot hold up a revoke. */
export interface RedisNode {
  readonly mint: Lane;
  readonly revoke: Lane;
}

/** An open target. */
export interface RedisClient extends AsyncDisposable {
  readonly nodes: readonly RedisNode[];
}

const LANE_SIZE = 4;
const IDLE_MS = 10_000;
/** A list of clients is about 260 bytes each, and a server takes 10,000 unless told otherwise. */
const MOST_BYTES = 16 * 1024 * 1024;

/** Opens the lanes without connecting. */
export function connectRedis(address: RedisAddress): RedisClient {
  const lanes: { readonly close: () => void }[] = [];
  const lane = (host: string, port: number): Lane => {
    const opened = openLane(() => openRedis(address, host, port));
    lanes.push(opened);
    return opened.lane;
  };
  const nodes = address.nodes.map(({ host, port }) => ({ mint: lane(host, port), revoke: lane(host, port) }));
  return {
    nodes,
    async [Symbol.asyncDispose]() {
      for (const { close } of lanes) close();
    },
  };
}

interface Link {
  readonly redis: Redis;
  /** The first thing that went wrong with it: what it is closed with says less. */
  failed: unknown;
  received: number;
  timer?: NodeJS.Timeout;
}

function openRedis({ user, password, tls, ca }: RedisAddress, host: string, port: number): Link {
  const redis = new Redis({
    host,
    port,
    username: user,
    password,
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
  const link: Link = { redis, failed: undefined, received: 0 };
  // An error event that nobody listens to is printed.
  redis.on("error", (error: unknown) => (link.failed ??= error));
  redis.on("connect", () => {
    redis.stream.on("data", (chunk: Buffer) => {
      link.received += chunk.length;
      if (link.received > MOST_BYTES) destroy(link);
    });
  });
  return link;
}

/** Ends it now, whether or not the server listens: `disconnect` alone waits for the other side, and 2 s for what is closed. */
function destroy({ redis, timer }: Link): void {
  clearTimeout(timer);
  if (redis.status !== "end") redis.disconnect();
  (redis.stream as typeof redis.stream | undefined)?.destroy();
}

function openLane(open: () => Link): { readonly lane: Lane; close(): void } {
  const turns = turnstile(LANE_SIZE);
  const idle: Link[] = [];
  let closed = false;
  const keep = (link: Link): void => {
    if (closed || link.redis.status !== "ready") {
      destroy(link);
      return;
    }
    idle.push(link);
    link.timer = setTimeout(() => {
      idle.splice(idle.indexOf(link), 1);
      destroy(link);
    }, IDLE_MS).unref();
  };
  const lend = async <Result>(
    kept: Link | undefined,
    signal: AbortSignal,
    work: (connection: Connection) => Promise<Result>,
  ): Promise<Result> => {
    const link = kept ?? open();
    clearTimeout(link.timer);
    let answered = false;
    const send = async (commands: readonly Command[], whole: boolean): Promise<unknown[]> => {
      signal.throwIfAborted();
      link.received = 0;
      const batch = whole ? link.redis.multi() : link.redis.pipeline();
      for (const [name, ...args] of commands) batch.call(name, ...args);
      const answers = (await batch.exec()) ?? [];
      answered ||= answers.some(([error]) => error === null || isReply(error));
      for (const [error] of answers) if (error !== null) throw error;
      return answers.map(([, answer]) => answer);
    };
    const abandon = (): void => destroy(link);
    signal.addEventListener("abort", abandon, { once: true });
    try {
      signal.throwIfAborted();
      if (kept === undefined) await link.redis.connect();
      const result = await work({
        ask: (...commands) => send(commands, false),
        atomically: (...commands) => send(commands, true),
      });
      keep(link);
      return result;
    } catch (error) {
      const lost = !(error instanceof MayflyError) && (!isReply(error) || link.redis.status !== "ready");
      if (lost) destroy(link);
      else keep(link);
      // Only what the server closed while nobody used it: after an answer, the work may have had effects.
      if (lost && kept !== undefined && !answered && !signal.aborted) return lend(undefined, signal, work);
      throw toMayflyError(isReply(error) ? error : (link.failed ?? error), signal);
    } finally {
      signal.removeEventListener("abort", abandon);
    }
  };
  return {
    lane: {
      async use(signal, withinMs, work) {
        using deadline = stopSignal(signal, withinMs);
        try {
          using _turn = await turns.enter(deadline.signal);
          return await lend(idle.pop(), deadline.signal, work);
        } catch (error) {
          throw toMayflyError(error, deadline.signal);
        }
      },
    },
    close() {
      closed = true;
      for (const link of idle.splice(0)) destroy(link);
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
    return new MayflyError("target_rejected", `Redis refused (${word})`);
  }
  if (signal.aborted) return new MayflyError("target_unavailable", "Redis was given up on before it answered");
  const code = typeof error === "object" && error !== null && "code" in error ? String(error.code) : "";
  const suffix = /^[A-Z_]{3,50}$/.test(code) ? ` (${code})` : "";
  return /CERT|TLS|SSL|ISSUER|SELF_SIGNED/.test(code)
    ? new MayflyError("target_rejected", `Redis's certificate was not accepted${suffix}`)
    : new MayflyError("target_unavailable", `Redis did not answer${suffix}`);
}
