import { randomBytes } from "node:crypto";
import { type Connection, type ConnectionOptions, createConnection } from "mysql2/promise";
import type { Issued, IssueRequest } from "../../src/issuers/issuer.ts";
import { type MysqlAccess, type MysqlConfig, type MysqlHandle, mysql } from "../../src/issuers/mysql.ts";
import { newId } from "../../src/lib/ids.ts";
import { Secret } from "../../src/lib/secret.ts";
import { testMariadb } from "../support/mariadb.ts";
import { never } from "./conformance.ts";

/** A server of one test file's own, set up as docs/issuers/mysql.md says: a database, two roles and an admin. */
export interface MysqlTarget extends AsyncDisposable {
  readonly config: MysqlConfig;
  /** May read and write table `app.notes`. */
  readonly role: string;
  /** Nothing is granted to it. */
  readonly otherRole: string;
  /** Runs as root of the server. */
  sql<Row = Record<string, unknown>>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** A further connection of root. */
  root(): Promise<TestClient>;
  /** A connection of the admin that Mayfly logs in as. */
  admin(): Promise<TestClient>;
  /** Logs in with a credential, as its holder. */
  login(secret: Issued["secret"]): Promise<TestClient>;
  /** The same, or undefined when it is refused. */
  tryLogin(secret: Issued["secret"]): Promise<TestClient | undefined>;
  request(changes?: Partial<IssueRequest<MysqlAccess, MysqlHandle>>): IssueRequest<MysqlAccess, MysqlHandle>;
}

/** A connection that ends with its scope and does not mind being killed. */
export interface TestClient extends AsyncDisposable {
  readonly id: number;
  query<Row = Record<string, unknown>>(text: string, values?: readonly unknown[]): Promise<Row[]>;
}

/** What docs/issuers/mysql.md tells the admin of a MariaDB to run. */
export function setupSql(admin: string, roles: readonly string[]): string[] {
  return [
    `GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO ${admin}`,
    `GRANT SELECT (User, Host) ON mysql.user TO ${admin}`,
    `GRANT UPDATE ON mysql.* TO ${admin}`,
    ...roles.map((role) => `GRANT '${role}' TO ${admin} WITH ADMIN OPTION`),
  ];
}

export async function mysqlTarget(args: readonly string[] = []): Promise<MysqlTarget> {
  const server = await testMariadb(args);
  const at = { host: "127.0.0.1", port: server.port };
  const root = { ...at, user: "root", password: server.rootPassword };
  const here = await connect(root);
  const password = randomBytes(16).toString("hex");
  const [role, otherRole] = ["notes_writer", "nothing_much"];
  for (const statement of [
    "CREATE DATABASE app",
    "CREATE TABLE app.notes (text text)",
    `CREATE ROLE '${role}'`,
    `CREATE ROLE '${otherRole}'`,
    `GRANT SELECT, INSERT ON app.notes TO '${role}'`,
    `CREATE USER 'mayfly_admin'@'%' IDENTIFIED BY '${password}'`,
    ...setupSql("'mayfly_admin'@'%'", [role, otherRole]),
  ]) {
    await here.query(statement);
  }
  const config = mysql.config.parse({ ...at, user: "mayfly_admin", password, tls: "disable", deployment: "t1" });
  const login = (secret: Issued["secret"]): Promise<TestClient> => {
    const { username: user, password: given } = secret;
    if (!(given instanceof Secret)) throw new Error("the password must be a Secret");
    return connect({ ...at, user: String(user), password: given.reveal() });
  };
  return {
    config,
    role,
    otherRole,
    sql: (text, values) => here.query(text, values),
    root: () => connect(root),
    admin: () => connect({ ...at, user: config.user, password }),
    login,
    tryLogin: (secret) =>
      login(secret).catch((error: { errno: unknown }) => {
        // 1045 no such account any more, or wrong password; 4151 locked.
        if (error.errno === 1045 || error.errno === 4151) return undefined;
        throw error;
      }),
    request(changes = {}) {
      const credentialId = newId("credential");
      return {
        credentialId,
        ...mysql.name(credentialId, config),
        access: [{ roles: [role] }],
        expiresAt: new Date(Date.now() + 60_000),
        createWithinMs: 5_000,
        signal: never(),
        keep: async () => undefined,
        ...changes,
      };
    },
    async [Symbol.asyncDispose]() {
      await here[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

async function connect(options: ConnectionOptions): Promise<TestClient> {
  const client: Connection = await createConnection(options);
  client.on("error", () => {});
  return {
    id: client.threadId,
    query: async <Row>(text: string, values: readonly unknown[] = []) => {
      const [rows] = await client.query(text, [...values]);
      return (Array.isArray(rows) ? rows : []) as Row[];
    },
    [Symbol.asyncDispose]: async () => client.destroy(),
  };
}
