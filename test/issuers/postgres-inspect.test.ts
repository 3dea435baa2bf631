import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type PostgresConfig, postgres } from "../../src/issuers/postgres.ts";
import { adminSetupSql } from "../../src/issuers/postgres-admin.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { never } from "./conformance.ts";
import { type PostgresTarget, postgresTarget, servers } from "./postgres-target.ts";
import { wire } from "./wire.ts";

describe.each(servers)("inspecting PostgreSQL $name", ({ url }) => {
  let target: PostgresTarget;
  beforeAll(async () => {
    target = await postgresTarget(url);
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  async function inspection(changes: Partial<PostgresConfig> = {}, roles: string[] = []): Promise<unknown> {
    await using client = await postgres.connect({ ...target.config, ...changes });
    return await postgres
      .inspect?.(client, [{ roles: [target.group, ...roles] }], never())
      .catch((error: unknown) => error);
  }

  async function remedies(roles: string[] = []): Promise<string[]> {
    const said: string[] = [];
    for (;;) {
      const error = await inspection({}, roles);
      if (!(error instanceof MayflyError)) return said;
      expect(error.code).toBe("target_refused");
      const remedy = /: (.*;)$/.exec(error.detail)?.[1];
      if (remedy === undefined) throw new Error(`names no statement: ${error.detail}`);
      await target.sql(remedy);
      said.push(remedy);
    }
  }

  test("what the documentation grants is enough", async () => {
    expect(await remedies()).toEqual([]);
  });

  test.each<[string, (names: { admin: string; group: string; extra: string }) => [broken: string, remedy: string]]>([
    ["a superuser as admin", ({ admin }) => [`alter role ${admin} superuser`, "NOSUPERUSER CREATEROLE;"]],
    ["an admin without CREATEROLE", ({ admin }) => [`alter role ${admin} nocreaterole`, "CREATEROLE;"]],
    [
      "an admin that cannot end sessions",
      ({ admin }) => [`revoke pg_signal_backend from ${admin}`, "GRANT pg_signal_backend"],
    ],
    ["a group that the admin cannot hand out", ({ admin, group }) => [`revoke ${group} from ${admin}`, "WITH ADMIN"]],
    ["a group with an attribute", ({ group }) => [`alter role ${group} createrole`, "NOCREATEROLE"]],
    ["a group that leads out of the database", ({ group }) => [`grant pg_write_server_files to ${group}`, "REVOKE"]],
    [
      "a group in a powerful group",
      ({ group, extra }) => [`alter role ${extra} createdb; grant ${extra} to ${group}`, "REVOKE"],
    ],
  ])("%s is refused, and the one statement that it names puts it right", async (_name, breaks) => {
    const [broken, remedy] = breaks({ admin: target.config.user, group: target.group, extra: target.otherGroup });
    await target.sql(broken);
    expect(await remedies()).toEqual([expect.stringContaining(remedy)]);
  });

  test("a group that does not exist is refused, and what is named makes it", async () => {
    const missing = `missing_${target.config.deployment}`;
    const said = await remedies([missing]);
    expect(said).toEqual([`CREATE ROLE "${missing}" NOLOGIN;`, expect.stringContaining("WITH ADMIN")]);
  });

  test("a pooler that logs in as somebody else is recognised", async () => {
    const somebody = `somebody_${target.config.deployment}`;
    await target.sql(`create role ${somebody}; grant ${somebody} to ${target.config.user}`);
    await target.sql(`alter role ${target.config.user} set role = ${somebody}`);
    expect(await inspection()).toMatchObject({ code: "target_refused", detail: expect.stringContaining("pooler") });
    await target.sql(`alter role ${target.config.user} reset role; drop role ${somebody}`);
  });

  test("a pooler that shares server connections is recognised", async () => {
    await using line = await wire(url, { spoilPid: true });
    const error = await inspection({ port: line.port });
    expect(error).toMatchObject({ code: "target_refused", detail: expect.stringContaining("pooler") });
  });

  test("a server before 16 passes only when that was accepted", async () => {
    const error = await inspection({ accept_before_16: false });
    if (target.before16) expect(error).toMatchObject({ code: "target_refused", detail: expect.stringContaining("16") });
    else expect(error).toBeUndefined();
  });
});

test("the documentation shows the very text that the tests ran", async () => {
  const page = await readFile(new URL("../../docs/issuers/postgres.md", import.meta.url), "utf8");
  expect(page).toContain(adminSetupSql({ admin: "mayfly_admin", groups: ["reporting_read"] }));
  expect(page).toContain(adminSetupSql({ admin: "mayfly_admin", groups: ["reporting_read"], before16: true }));
});
