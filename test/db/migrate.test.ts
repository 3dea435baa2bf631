import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import pg from "pg";
import { assertMigrated, migrate } from "../../src/db/migrate.ts";
import { emptyDatabase, testDatabase } from "../support/database.ts";
import { type TestDirectory, testDirectory } from "../support/directory.ts";

const first = "create table first (id int primary key);";
const second = "create table second (id int primary key);";

test("applies what is missing, in order, and nothing twice", async () => {
  await using db = await emptyDatabase();
  await using files = await migrations({ "0001_first.sql": first });
  expect(await migrate(db.ownerUrl, files.path)).toEqual(["0001_first"]);

  await add(files, { "0002_second.sql": second });
  expect(await migrate(db.ownerUrl, files.path)).toEqual(["0002_second"]);
  expect(await migrate(db.ownerUrl, files.path)).toEqual([]);
  const rows = await ask(
    db.ownerUrl,
    "select version, name, sha256 ~ '^[0-9a-f]{64}$' as hashed from schema_migrations order by 1",
  );
  expect(rows).toEqual([
    { version: 1, name: "0001_first", hashed: true },
    { version: 2, name: "0002_second", hashed: true },
  ]);
});

test("a file and the record of it are one transaction: a crash leaves both or neither", async () => {
  await using db = await emptyDatabase();
  await using files = await migrations({ "0001_first.sql": first });
  await migrate(db.ownerUrl, files.path);
  const made = "select xmin::text as by from pg_class where relname = 'first'";
  expect(await ask(db.ownerUrl, made)).toEqual(
    await ask(db.ownerUrl, "select xmin::text as by from schema_migrations"),
  );
});

test("processes that migrate at the same moment apply every file once", async () => {
  await using db = await emptyDatabase();
  await using files = await migrations({
    "0001_first.sql": `${first} select pg_sleep(0.2);`,
    "0002_second.sql": second,
  });
  const applied = await Promise.all(Array.from({ length: 4 }, () => migrate(db.ownerUrl, files.path)));
  expect(applied.flat().toSorted()).toEqual(["0001_first", "0002_second"]);
});

test("a file that fails leaves nothing of itself, keeps what came before, and is named with its line", async () => {
  await using db = await emptyDatabase();
  await using files = await migrations({
    "0001_first.sql": first,
    "0002_second.sql": `${second}\n\nselect nonsense;`,
    "0003_third.sql": "create table third (id int);",
  });
  await expect(migrate(db.ownerUrl, files.path)).rejects.toThrow('0002_second.sql:3: column "nonsense" does not exist');
  expect(await tables(db.ownerUrl)).toEqual(["first", "schema_migrations"]);

  await add(files, { "0002_second.sql": second });
  expect(await migrate(db.ownerUrl, files.path)).toEqual(["0002_second", "0003_third"]);
});

test("a file that was edited after it had been applied is refused before anything runs", async () => {
  await using db = await emptyDatabase();
  await using files = await migrations({ "0001_first.sql": first });
  await migrate(db.ownerUrl, files.path);
  await add(files, { "0001_first.sql": `${first} -- edited`, "0002_second.sql": second });
  await expect(migrate(db.ownerUrl, files.path)).rejects.toThrow(
    "0001_first.sql was changed after it had been applied",
  );
  expect(await tables(db.ownerUrl)).toEqual(["first", "schema_migrations"]);
});

test("line ends that Git changed are not an edit", async () => {
  await using db = await emptyDatabase();
  await using files = await migrations({ "0001_first.sql": "create table first (\n  id int\n);\n" });
  await migrate(db.ownerUrl, files.path);
  await add(files, { "0001_first.sql": "create table first (\r\n  id int\r\n);\r\n" });
  expect(await migrate(db.ownerUrl, files.path)).toEqual([]);
});

test("a database that a newer build has migrated is refused, to migrate and to run on", async () => {
  await using db = await emptyDatabase();
  await using newer = await migrations({ "0001_first.sql": first, "0002_second.sql": second });
  await using older = await migrations({ "0001_first.sql": first });
  await migrate(db.ownerUrl, newer.path);
  const refusal = "has 0002_second, which is newer than this build (its latest is 0001_first). Run a newer build.";
  await expect(migrate(db.ownerUrl, older.path)).rejects.toThrow(refusal);
  await expect(assertMigrated(db.runtimeUrl, older.path)).rejects.toThrow(refusal);
});

test("a database that another branch has migrated is refused", async () => {
  await using db = await emptyDatabase();
  await using ours = await migrations({ "0001_first.sql": first });
  await using theirs = await migrations({ "0001_other.sql": second });
  await migrate(db.ownerUrl, theirs.path);
  await expect(migrate(db.ownerUrl, ours.path)).rejects.toThrow("has 0001_other where this build has 0001_first");
});

test.each([
  { name: "with a hole", files: { "0001_first.sql": first, "0003_third.sql": second } },
  { name: "with a number twice", files: { "0001_first.sql": first, "0001_second.sql": second } },
  { name: "with a name that is not NNNN_name.sql", files: { "0001_first.sql": first, "2-second.sql": second } },
])("a directory of migrations $name is refused before anything runs", async ({ files }) => {
  await using db = await emptyDatabase();
  await using directory = await migrations(files);
  await expect(migrate(db.ownerUrl, directory.path)).rejects.toThrow(/should have migration|is not named/);
  expect(await tables(db.ownerUrl)).toEqual([]);
});

test("a process that finds the database behind its build says to run `mayfly migrate`, as the runtime role", async () => {
  await using db = await emptyDatabase();
  await using files = await migrations({ "0001_first.sql": first });
  await expect(assertMigrated(db.runtimeUrl, files.path)).rejects.toThrow("lacks 0001_first. Run `mayfly migrate`");
  await migrate(db.ownerUrl, files.path);
  await expect(assertMigrated(db.runtimeUrl, files.path)).resolves.toBeUndefined();
  await add(files, { "0002_second.sql": second });
  await expect(assertMigrated(db.runtimeUrl, files.path)).rejects.toThrow("lacks 0002_second. Run `mayfly migrate`");
});

test("the migrations of this build apply as the owner, who is no superuser, and bring every database to one state", async () => {
  await using cloned = await testDatabase();
  await using fresh = await emptyDatabase();
  const applied = await migrate(fresh.ownerUrl);
  await assertMigrated(fresh.runtimeUrl);
  await assertMigrated(cloned.runtimeUrl);
  expect(await ask(fresh.ownerUrl, "select name from schema_migrations order by version")).toEqual(
    applied.map((name) => ({ name })),
  );
});

async function migrations(files: Readonly<Record<string, string>>): Promise<TestDirectory> {
  const directory = await testDirectory();
  await add(directory, files);
  return directory;
}

async function add(directory: TestDirectory, files: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, text] of Object.entries(files)) await writeFile(join(directory.path, name), text);
}

async function tables(url: string): Promise<unknown[]> {
  const rows = await ask(url, "select tablename as name from pg_tables where schemaname = 'public' order by 1");
  return rows.map((row) => row["name"]);
}

async function ask(url: string, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  try {
    await client.connect();
    return (await client.query<Record<string, unknown>>(text)).rows;
  } finally {
    await client.end();
  }
}
