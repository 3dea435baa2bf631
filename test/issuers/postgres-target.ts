import { randomBytes } from "node:crypto";
import pg from "pg";
import type { Issued, IssueRequest } from "../../src/issuers/issuer.ts";
import { type PostgresAccess, type PostgresConfig, type PostgresHandle, postgres } from "../../src/issuers/postgres.ts";
import { adminSetupSql } from "../../src/issuers/postgres-admin.ts";
import { scramVerifier } from "../../src/issuers/scram.ts";
import { newId } from "../../src/lib/ids.ts";
import { Secret } from "../../src/lib/secret.ts";
import { never } from "./conformance.ts";

/** The servers to test against: the one of this run, and those of `TEST_POSTGRES_SERVERS` (`16=postgres://…,17=…`). */
export const servers: readonly { readonly name: string; readonly url: string }[] = [
  { name: "18", url: process.env["TEST_POSTGRES_SUPERUSER_URL"] ?? "" },
  ...(process.env["TEST_POSTGRES_SERVERS"] ?? "")
    .split(",")
    .filter((entry) => entry !== "")
    .map((entry) => ({ name: entry.slice(0, entry.indexOf("=")), url: entry.slice(entry.indexOf("=") + 1) })),
];

/** A target of one test file's own: a database, two groups and an admin, set up as the documentation says. */
export interface PostgresTarget extends AsyncDisposable {
  readonly config: PostgresConfig;
  readonly before16: boolean;
  /** May read and write table `notes`. */
  readonly group: string;
  /** Nothing is granted to it. */
  readonly otherGroup: string;
  /** Runs as the superuser of the server, in the target's database. */
  sql<Row = Record<string, unknown>>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** A further connection of the superuser. */
  superuser(): Promise<TestClient>;
  /** A connection of the admin that Mayfly logs in as. */
  admin(): Promise<TestClient>;
  /** Logs in with a credential, as its holder; `options` as in libpq. */
  login(secret: Issued["secret"], options?: string): Promise<TestClient>;
  /** Log-ins to this database that have proven their password and are in no list of sessions yet. */
  hiddenLogins(): Promise<number>;
  /** Statements of the admin that wait for a lock. */
  lockWaits(): Promise<number>;
  /** What `issue` is asked for, and its handle. */
  request(
    changes?: Partial<IssueRequest<PostgresAccess, PostgresHandle>>,
  ): IssueRequest<PostgresAccess, PostgresHandle>;
}

/** A connection that ends with its scope and does not mind being killed. */
export interface TestClient extends AsyncDisposable {
  query<Row = Record<string, unknown>>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** Whether the server still answers it at all, be it with a refusal. */
  alive(): Promise<boolean>;
}

export async function postgresTarget(url: string): Promise<PostgresTarget> {
  const tag = randomBytes(4).toString("hex");
  const database = `target_${tag}`;
  const [group, otherGroup, admin] = [`notes_${tag}`, `other_${tag}`, `admin_${tag}`];
  const password = randomBytes(16).toString("hex");
  await using server = await connect(url);
  const [version] = await server.query<{ number: number }>(
    "select current_setting('server_version_num')::int as number",
  );
  const before16 = (version?.number ?? 0) < 160_000;
  await server.query(`create database ${database}`);
  await server.query(`create role ${group}; create role ${otherGroup}`);
  const passwordVerifier = await scramVerifier(new Secret(password));
  await server.query(adminSetupSql({ admin, groups: [group, otherGroup], passwordVerifier, before16 }));

  const { hostname: host, port } = new URL(url);
  const inDatabase = new URL(url);
  inDatabase.pathname = `/${database}`;
  const here = await connect(inDatabase.href);
  await here.query("create table notes (text text)");
  await here.query(`grant select, insert on notes to ${group}`);
  const config = postgres.config.parse({
    host,
    port: Number(port),
    database,
    user: admin,
    password,
    tls: "disable",
    deployment: tag,
    ...(before16 ? { accept_before_16: true } : {}),
  });
  return {
    config,
    before16,
    group,
    otherGroup,
    sql: (text, values) => here.query(text, values),
    superuser: () => connect(inDatabase.href),
    admin: () => connect({ host, port: Number(port), database, user: admin, password }),
    async hiddenLogins() {
      const rows = await here.query(
        `select from pg_locks where locktype = 'object' and classid = 'pg_database'::regclass
           and objid = (select oid from pg_database where datname = current_database())
           and pid not in (select pid from pg_stat_activity where usesysid is not null)`,
      );
      return rows.length;
    },
    login: (secret, options) => {
      const { username: user, password: given } = secret;
      if (!(given instanceof Secret)) throw new Error("the password must be a Secret");
      return connect({ host, port: Number(port), database, user: String(user), password: given.reveal(), options });
    },
    async lockWaits() {
      const waiting = "select from pg_stat_activity where usename = $1 and wait_event_type = 'Lock'";
      return (await here.query(waiting, [admin])).length;
    },
    request(changes = {}) {
      const credentialId = newId("credential");
      return {
        credentialId,
        ...postgres.name(credentialId, config),
        access: [{ roles: [group] }],
        expiresAt: new Date(Date.now() + 60_000),
        createWithinMs: 5_000,
        signal: never(),
        keep: async () => undefined,
        ...changes,
      };
    },
    async [Symbol.asyncDispose]() {
      await here[Symbol.asyncDispose]();
      await using last = await connect(url);
      await last.query(`drop database ${database} with (force)`);
      const roles = await last.query<{ rolname: string }>("select rolname from pg_roles where rolname ~ $1", [
        `^mfy_[a-z0-9]{1,8}_[0-9a-f]{32}$|_${tag}$`,
      ]);
      const ours = roles.map(({ rolname }) => rolname).filter((name) => name.includes(tag));
      // The admin last: it granted the others their memberships.
      for (const name of [...ours.filter((role) => role !== admin), admin]) await last.query(`drop role "${name}"`);
    },
  };
}

/** What was asked for, and the secret of the credential that came of it. */
export async function mint(
  target: PostgresTarget,
  client: Awaited<ReturnType<typeof postgres.connect>>,
): Promise<IssueRequest<PostgresAccess, PostgresHandle> & { readonly secret: Issued["secret"] }> {
  const asked = target.request();
  return { ...asked, ...(await postgres.issue(client, asked)) };
}

/** Waits until something holds. A test that waits for ever is ended by jest's time limit. */
export async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resume) => setTimeout(resume, 5));
}

async function connect(config: string | pg.ClientConfig): Promise<TestClient> {
  const client = new pg.Client(config);
  client.on("error", () => {});
  await client.connect();
  return {
    query: async <Row>(text: string, values: readonly unknown[] = []) => {
      const result = await client.query(text, values.length === 0 ? undefined : [...values]);
      return result.rows as Row[];
    },
    alive: () =>
      client.query("select from notes").then(
        () => true,
        (error: unknown) => isAnswer(error),
      ),
    [Symbol.asyncDispose]: () => client.end(),
  };
}

/** A refusal of a living session; 57P01 is its end. */
function isAnswer(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code !== "57P01";
}
