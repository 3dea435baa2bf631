import { randomBytes } from "node:crypto";
import pg from "pg";
import { limitDatabase, loginUrls, provisionDatabase } from "../../src/db/provision.ts";
import { TEMPLATE } from "./run-state.ts";

/** A migrated database of one test file's own, dropped when disposed, with whoever is still connected. */
export interface TestDatabase extends AsyncDisposable {
  /** Unique in the cluster. Roles are shared by all databases of a cluster: prefix those that a test makes with it. */
  readonly name: string;
  /** As `mayfly_app`: what the product runs as. */
  readonly runtimeUrl: string;
  /** As `mayfly_owner`: what runs the migrations. */
  readonly ownerUrl: string;
  /** As `postgres`, in this database. */
  readonly superuserUrl: string;
}

/** Clones the template: `await using db = await testDatabase()`. */
export async function testDatabase(): Promise<TestDatabase> {
  const name = `test_${randomBytes(6).toString("hex")}`;
  await asSuperuser(async (client) => {
    await client.query(`create database ${name} owner mayfly_owner template ${TEMPLATE}`);
    await limitDatabase(client, name);
  });
  return described(name);
}

/** An empty database, provisioned and not migrated, for the tests of migrating itself. */
export async function emptyDatabase(): Promise<TestDatabase> {
  const name = `empty_${randomBytes(6).toString("hex")}`;
  await provisionDatabase(testSuperuserUrl(), name);
  return described(name);
}

/** The superuser of the cluster of this run, in its database `postgres`. */
export function testSuperuserUrl(): string {
  const url = process.env["TEST_POSTGRES_SUPERUSER_URL"];
  if (url === undefined) throw new Error("globalSetup did not run: start tests with `npm test`");
  return url;
}

function described(name: string): TestDatabase {
  const superuserUrl = new URL(testSuperuserUrl());
  superuserUrl.pathname = `/${name}`;
  return {
    name,
    ...loginUrls(testSuperuserUrl(), name),
    superuserUrl: superuserUrl.href,
    [Symbol.asyncDispose]: () =>
      asSuperuser(async (client) => {
        await client.query(`drop database ${name} with (force)`);
      }),
  };
}

async function asSuperuser(work: (client: pg.Client) => Promise<void>): Promise<void> {
  const client = new pg.Client({ connectionString: testSuperuserUrl() });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}
