import { randomBytes } from "node:crypto";
import { chmod, chown, mkdir, mkdtemp, open, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { ensureDataDirectory } from "../lib/data-directory.ts";
import { freePort } from "../lib/free-port.ts";
import { withDirectoryLock } from "./directory-lock.ts";
import {
  type Account,
  canReach,
  copyBinaries,
  embeddedNativeDirectory,
  hydrateLinks,
  run,
  unprivilegedAccount,
} from "./embedded-binaries.ts";
import { disownPostmaster, findPostmaster } from "./postmaster.ts";

/** A running embedded PostgreSQL. It outlives this process unless `stop` is called. */
export interface EmbeddedPostgres {
  /** Of the superuser `postgres`, with its password, in the database `postgres`. */
  readonly superuserUrl: string;
  readonly port: number;
  /** Whether this call started it. When not, it belongs to another process and `stop` does nothing. */
  readonly started: boolean;
  stop(): Promise<void>;
}

/** What to start, and where. */
export interface EmbeddedOptions {
  /** Everything is kept here. Processes that name the same directory share one server. */
  readonly directory: string;
  /** `false` gives up surviving a power cut for speed. For tests alone. Default `true`. */
  readonly durable?: boolean;
  /** Where the binaries are, instead of the installed package: to test against other major versions. */
  readonly native?: string;
}

/** What is kept in `embedded.json`, readable by its owner alone. */
interface State {
  readonly superuserPassword: string;
  /** Where the data and, if need be, the copied binaries are: the directory itself, or a temporary one. */
  readonly base: string;
  readonly native: string;
  /** The port of last time, taken again if it is free, so that open configurations stay right. */
  readonly port?: number;
}

const START_TIMEOUT_MS = 90_000;

/**
 * A real PostgreSQL 18 in `directory`, made on first use: the one that runs there already, or a new one, detached
 * from this process so that killing Mayfly does not kill the database. Any number of processes may call it at once.
 */
export async function startEmbeddedPostgres(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const directory = resolve(options.directory);
  const account = await unprivilegedAccount();
  await ensureDataDirectory(directory);
  return await withDirectoryLock(directory, START_TIMEOUT_MS, async () => {
    const state = (await readState(directory)) ?? (await createState(directory, account, options));
    const server = { ...state, account, data: join(state.base, "data"), durable: options.durable ?? true };
    const running = await findPostmaster(server.data, state.superuserPassword, START_TIMEOUT_MS);
    if (running.kind === "live") return handle(server, running.port, false);
    if (running.kind === "stale") await disownPostmaster(server.data);
    if (!(await exists(server.data))) await initialise(server);
    const port = await start(server, START_TIMEOUT_MS);
    if (port !== state.port) await writeState(directory, { ...state, port });
    return handle(server, port, true);
  });
}

interface Server extends State {
  readonly account: Account | undefined;
  readonly data: string;
  readonly durable: boolean;
}

function handle(server: Server, port: number, started: boolean): EmbeddedPostgres {
  const superuserUrl = `postgres://postgres:${server.superuserPassword}@127.0.0.1:${port}/postgres`;
  return {
    superuserUrl,
    port,
    started,
    async stop() {
      if (!started) return;
      const args = ["stop", "-D", server.data, "-m", "fast", "-w", "-t", "60", "-s"];
      const stopped = await run(program(server, "pg_ctl"), args, { account: server.account, cwd: server.base });
      const gone = (await findPostmaster(server.data, server.superuserPassword, 0)).kind !== "live";
      if (stopped.code !== 0 && !gone) throw new Error(`the embedded PostgreSQL did not stop: ${stopped.output}`);
    },
  };
}

async function readState(directory: string): Promise<State | undefined> {
  const text = await readFile(join(directory, "embedded.json"), "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  const state = JSON.parse(text) as State;
  if (state.base === directory || (await exists(state.base))) return state;
  // Starting empty would forget credentials that are still alive downstream, so a person has to say so.
  throw new Error(
    `the embedded database of ${directory} was kept in ${state.base}, which is gone. Remove ${directory} to start with ` +
      "an empty one, or set DATABASE_URL.",
  );
}

async function writeState(directory: string, state: State): Promise<void> {
  const path = join(directory, "embedded.json");
  await writeFile(`${path}.new`, JSON.stringify(state), { mode: 0o600 });
  await rename(`${path}.new`, path);
}

async function createState(directory: string, account: Account | undefined, options: EmbeddedOptions): Promise<State> {
  const installed = options.native ?? embeddedNativeDirectory();
  await hydrateLinks(installed);
  let base = directory;
  if (!(await canReach(account, directory, "/bin/sh"))) {
    // Mayfly is root, PostgreSQL must not be, and the way here is closed to everyone but root (/root has mode 0700).
    // A random name: a foreseeable one under /tmp could be planted by another user, and we would run its binaries.
    base = await mkdtemp(join(tmpdir(), "mayfly-postgres-"));
    await chmod(base, 0o711);
  }
  // The same for the binaries, which may be closed off while the data are not (a global install under /root).
  const reachable = await canReach(account, base, join(installed, "bin", executable("postgres")));
  const native = reachable ? installed : await copyBinaries(installed, base);
  const state = { superuserPassword: randomBytes(24).toString("hex"), base, native };
  await writeState(directory, state);
  return state;
}

async function initialise(server: Server): Promise<void> {
  const { account, base } = server;
  const passwordFile = join(base, "initial-password");
  const unfinished = `${server.data}.new`;
  try {
    await rm(unfinished, { recursive: true, force: true });
    await mkdir(unfinished, { mode: 0o700 });
    await writeFile(passwordFile, server.superuserPassword, { mode: 0o600 });
    if (account !== undefined) {
      await chown(unfinished, account.uid, account.gid);
      await chown(passwordFile, account.uid, account.gid);
    }
    const args = ["-D", unfinished, "-U", "postgres", "-A", "scram-sha-256", `--pwfile=${passwordFile}`];
    args.push("-E", "UTF8", "--locale=C", "--no-instructions", ...(server.durable ? [] : ["--no-sync"]));
    const made = await run(program(server, "initdb"), args, { account, cwd: base });
    if (made.code !== 0) throw new Error(`initdb failed: ${made.output}`);
    // A crash before this line leaves nothing that looks like a database.
    await rename(unfinished, server.data);
  } finally {
    await rm(passwordFile, { force: true });
  }
}

async function start(server: Server, timeoutMs: number): Promise<number> {
  const { account, base, data } = server;
  const log = join(base, "postgres.log");
  await (await open(log, "a", 0o600)).close();
  if (account !== undefined) await chown(log, account.uid, account.gid);
  const deadline = performance.now() + timeoutMs;
  let wanted = server.port;
  for (;;) {
    const port = wanted ?? (await freePort());
    const before = (await stat(log)).size;
    const args = ["start", "-D", data, "-l", log, "-w", "-t", "60", "-s", "-o", flags(port, server.durable)];
    const outcome = await run(program(server, "pg_ctl"), args, { account, cwd: base });
    const found = await findPostmaster(data, server.superuserPassword, Math.max(0, deadline - performance.now()));
    if (found.kind === "live") return found.port;
    const said = (await readFile(log)).subarray(before).toString().trim();
    // What passes: somebody else has the port, or backends of a killed server are still leaving.
    const passing = /could not bind|could not create any TCP\/IP sockets|pre-existing shared memory|lock file/.test(
      said,
    );
    if (!passing || performance.now() > deadline) {
      throw new Error(
        `the embedded PostgreSQL in ${data} did not start: ${outcome.output}\n${said || "(it logged nothing)"}`,
      );
    }
    wanted = undefined;
    await delay(100);
  }
}

function flags(port: number, durable: boolean): string {
  const settings = [
    "listen_addresses=127.0.0.1",
    `port=${port}`,
    // None: the path of a socket is limited to 107 bytes, and that of a project is not.
    "unix_socket_directories=",
    "max_connections=200",
    "shared_buffers=128MB",
    "timezone=UTC",
    "log_timezone=UTC",
    // A failed statement may hold a password (invariant 11).
    "log_min_error_statement=panic",
    ...(durable ? [] : ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]),
  ];
  return settings.map((setting) => `-c ${setting}`).join(" ");
}

function program(server: Server, name: string): string {
  return join(server.native, "bin", executable(name));
}

function executable(name: string): string {
  return process.platform === "win32" ? `${name}.exe` : name;
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
