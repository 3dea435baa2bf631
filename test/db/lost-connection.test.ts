import { expect, test } from "@jest/globals";
import { sql } from "kysely";
import pg from "pg";
import { openDatabase } from "../../src/db/database.ts";
import { createLog } from "../../src/lib/log.ts";
import { testDatabase } from "../support/database.ts";
import { until } from "../support/until.ts";

test("a connection that is lost between two statements of a transaction fails that transaction and nothing else", async () => {
  await using database = await testDatabase();
  await using db = openDatabase({
    connectionString: database.runtimeUrl,
    log: createLog("error", { write: () => undefined }),
  });
  const acting = { tenantId: "ten_00000000000070008000000000000001", actor: "test" };
  const superuser = new pg.Client({ connectionString: database.superuserUrl });
  await superuser.connect();
  try {
    const broken = db.withTenant(acting, async (tx) => {
      const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(tx);
      await superuser.query("select pg_terminate_backend($1)", [rows[0]?.pid]);
      await until("the backend is gone", async () => {
        const left = await superuser.query("select from pg_stat_activity where pid = $1", [rows[0]?.pid]);
        return left.rowCount === 0;
      });
      // The socket's end arrives in a turn of its own, while nobody is asking anything.
      await new Promise((resume) => setImmediate(resume));
      await sql`select 1`.execute(tx);
    });
    await expect(broken).rejects.toMatchObject({ code: "unavailable" });
  } finally {
    await superuser.end();
  }
  await expect(db.check()).resolves.toBeUndefined();
});
