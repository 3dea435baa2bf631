import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { userInfo } from "node:os";
import { join } from "node:path";
import { freePort } from "../../src/lib/free-port.ts";
import { testDirectory } from "./directory.ts";

// Found by jest.config.mjs, which refuses to go on without it in CI.
const mariadbServer = process.env["TEST_MARIADB_SERVER"];
/** Where its packages put the SQL of the system tables. */
const SHARE = "/usr/share/mysql";
const START_WITHIN_MS = 30_000;

/** A MariaDB of one test file's own, on a free port of 127.0.0.1, empty, its data gone with it. */
export interface TestMariadb extends AsyncDisposable {
  readonly port: number;
  readonly rootPassword: string;
}

/** Starts one: `await using server = await testMariadb()`. `args` are more arguments of `mariadbd`. */
export async function testMariadb(args: readonly string[] = []): Promise<TestMariadb> {
  const directory = await testDirectory();
  const rootPassword = randomBytes(16).toString("hex");
  const data = join(directory.path, "data");
  const socket = join(directory.path, "s");
  await mkdir(data);
  // As root it would refuse to run without being told, and there may be no user for it.
  const common = ["--no-defaults", `--datadir=${data}`, `--user=${userInfo().username}`, "--skip-name-resolve"];
  // mariadb-install-db needs tools of the client's package; this is what it does.
  await run([...common, "--bootstrap"], await systemTables());
  const init = join(directory.path, "init.sql");
  await writeFile(
    init,
    `CREATE OR REPLACE USER 'root'@'127.0.0.1' IDENTIFIED BY '${rootPassword}';\nGRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n`,
    { mode: 0o600 },
  );
  const own = [
    `--socket=${socket}`,
    "--bind-address=127.0.0.1",
    `--init-file=${init}`,
    "--loose-skip-ssl",
    "--innodb-flush-log-at-trx-commit=0",
  ];
  let server: ChildProcess | undefined;
  let port = 0;
  // Another process may take the free port before MariaDB does.
  for (let attempt = 0; server === undefined; attempt++) {
    port = await freePort();
    server = await start([...common, ...own, `--port=${port}`, ...args]).catch((error: unknown) => {
      if (attempt === 4) throw error;
      return undefined;
    });
  }
  const running = server;
  return {
    port,
    rootPassword,
    async [Symbol.asyncDispose]() {
      if (running.exitCode === null && running.signalCode === null) {
        const gone = once(running, "exit");
        running.kill("SIGKILL");
        await gone;
      }
      await directory[Symbol.asyncDispose]();
    },
  };
}

async function systemTables(): Promise<string> {
  const files = ["mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql"];
  const texts = await Promise.all(files.map((file) => readFile(join(SHARE, file), "utf8")));
  return `create database mysql;\nuse mysql;\n${texts.join("\n").replaceAll("@auth_root_socket", "NULL")}`;
}

function launch(args: readonly string[]): { server: ChildProcess; said(): string } {
  if (mariadbServer === undefined) throw new Error("mariadbd is not installed: call the file *.mariadb.test.ts");
  const server = spawn(mariadbServer, args, { stdio: ["pipe", "pipe", "pipe"] });
  let said = "";
  const hear = (chunk: Buffer): void => {
    said += chunk.toString();
  };
  server.stdout.on("data", hear);
  server.stderr.on("data", hear);
  return { server, said: () => said };
}

async function run(args: readonly string[], input: string): Promise<void> {
  const { server, said } = launch(args);
  const gone = once(server, "exit");
  server.stdin?.on("error", () => undefined).end(input);
  const [code] = await gone;
  if (code !== 0) throw new Error(`mariadbd --bootstrap ended with ${code}:\n${said()}`);
}

async function start(args: readonly string[]): Promise<ChildProcess> {
  const { server, said } = launch(args);
  await new Promise<void>((resolve, reject) => {
    const late = setTimeout(() => {
      server.kill("SIGKILL");
      reject(new Error(`mariadbd did not start in time:\n${said()}`));
    }, START_WITHIN_MS);
    server.stderr?.on("data", () => {
      if (!said().includes("ready for connections")) return;
      clearTimeout(late);
      resolve();
    });
    server.once("exit", () => {
      clearTimeout(late);
      reject(new Error(`mariadbd did not start:\n${said()}`));
    });
  });
  return server;
}
