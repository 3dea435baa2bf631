import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import pg from "pg";
import { type Db, openDatabase } from "../../src/db/database.ts";
import { createLog } from "../../src/lib/log.ts";
import { type Wire, wire } from "../issuers/wire.ts";
import { type TestDatabase, testDatabase } from "../support/database.ts";

/** Keeps each item once, and refuses `poison`. */
const FUNCTION = `
  create table mayfly.kept (item text primary key);
  grant select, insert on mayfly.kept to mayfly_runtime;
  create function mayfly.keep(p_tenant text, p_items jsonb) returns table (ord int, outcome text) language plpgsql as $$
  begin
    if p_items ? 'poison' then raise exception 'poison'; end if;
    return query with done as (insert into kept select value from jsonb_array_elements_text(p_items) returning item)
      select i.ordinality::int, d.item from jsonb_array_elements_text(p_items) with ordinality i join done d on d.item = i.value;
  end $$`;

describe("a batch", () => {
  let database: TestDatabase;
  let line: Wire;
  let superuser: pg.Client;
  let db: Db;
  let keep: (tenantId: string, item: string) => Promise<{ outcome: string }>;

  beforeAll(async () => {
    database = await testDatabase();
    line = await wire(database.runtimeUrl);
    superuser = new pg.Client({ connectionString: database.superuserUrl });
    await superuser.connect();
    await superuser.query(FUNCTION);
    const url = new URL(database.runtimeUrl);
    url.port = String(line.port);
    db = openDatabase({ connectionString: url.href, log: createLog("error", { write: () => undefined }) });
    keep = db.batched("keep");
  });
  afterAll(async () => {
    await superuser.end();
    await db[Symbol.asyncDispose]();
    await line[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
  });

  const together = (...items: string[]) => Promise.allSettled(items.map((item) => keep("ten_a", item)));
  const kept = async (): Promise<string[]> =>
    (await superuser.query<{ item: string }>("select item from mayfly.kept order by 1")).rows.map(({ item }) => item);

  test("one poisoned item fails nobody else", async () => {
    const [first, poison, last] = await together("first", "poison", "last");
    expect(first).toMatchObject({ value: { outcome: "first" } });
    expect(poison).toMatchObject({ reason: { code: "P0001" } });
    expect(last).toMatchObject({ value: { outcome: "last" } });
    expect(await kept()).toEqual(["first", "last"]);
  });

  test("one whose answer is lost is not asked again: what was committed stands, and everybody is told that nobody knows", async () => {
    await superuser.query("delete from mayfly.kept");
    line.loseAnswerTo("keep");
    for (const one of await together("a", "b", "c")) expect(one).toMatchObject({ reason: { code: "unavailable" } });
    expect(await kept()).toEqual(["a", "b", "c"]);
  });
});
