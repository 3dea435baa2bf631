import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type PostgresConfig, postgres } from "../../src/issuers/postgres.ts";
import { adminSetupSql } from "../../src/issuers/postgres-admin.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { certificateFor } from "./certificate.ts";
import { never } from "./conformance.ts";
import { sqlNames } from "./corpus.ts";
import { type PostgresTarget, postgresTarget, servers } from "./postgres-target.ts";
import { wire, withOtherPid } from "./wire.ts";

type Names = { readonly admin: string; readonly group: string; readonly extra: string; readonly database: string };

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

  test.each<[string, (names: Names) => [broken: string, remedy: string]]>([
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
    ["an admin that may not log in", ({ admin }) => [`alter role ${admin} nologin`, "LOGIN;"]],
    [
      "an admin that may not connect to the database",
      ({ admin, group, database }) => [
        `revoke connect on database ${database} from public, ${admin}; grant connect on database ${database} to ${group}`,
        "GRANT CONNECT",
      ],
    ],
    [
      "a group whose members could not connect",
      ({ group, database }) => [`revoke connect on database ${database} from public, ${group}`, "GRANT CONNECT"],
    ],
  ])("%s is refused, and the one statement that it names puts it right", async (_name, breaks) => {
    const { user: admin, database } = target.config;
    const [broken, remedy] = breaks({ admin, database, group: target.group, extra: target.otherGroup });
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
    await using line = await wire(url, { change: withOtherPid });
    const error = await inspection({ port: line.port });
    expect(error).toMatchObject({ code: "target_refused", detail: expect.stringContaining("pooler") });
  });

  test("names that need quoting are quoted in what is to be run", async () => {
    const [odd, oddGroup] = [`we'ird"; drop table notes; --`, target.group];
    const was = target.config.user;
    await target.sql(`alter role ${was} rename to "${odd.replaceAll('"', '""')}"`);
    await target.sql(`revoke ${oddGroup} from "${odd.replaceAll('"', '""')}"`);
    const error = await inspection({ user: odd });
    const remedy = /: (.*;)$/.exec((error as MayflyError).detail)?.[1] ?? "";
    await target.sql(remedy);
    expect(await inspection({ user: odd })).toBeUndefined();
    await target.sql(`alter role "${odd.replaceAll('"', '""')}" rename to ${was}`);
    expect(await target.sql("select from notes")).toEqual([]);
  });

  test.each<[string, Partial<PostgresConfig>, string, string]>([
    ["another password", { password: "not the password" }, "target_rejected", "user or password"],
    ["a user that is not there", { user: "nobody_at_all" }, "target_rejected", "user or password"],
    ["a database that is not there", { database: "none_such" }, "target_rejected", "no such database"],
    ["a port where nobody listens", { port: 1 }, "target_unavailable", "did not answer (ECONNREFUSED)"],
    ["a host that is not there", { host: "none.invalid" }, "target_unavailable", "did not answer (E"],
    ["TLS that the server has not", { tls: "verify-full" }, "target_rejected", "does not offer TLS"],
  ])("%s is refused for what it is", async (_what, changes, code, detail) => {
    expect(await inspection(changes)).toMatchObject({ code, detail: expect.stringContaining(detail) });
  });

  test("an admin's or a database's name that tries to leave its place is a name that is not there, and no more", async () => {
    const texts = sqlNames.filter((text) => postgres.config.safeParse({ ...target.config, user: text }).success);
    expect(texts.length).toBeGreaterThanOrEqual(70);
    for (const text of texts)
      for (const changes of [{ user: text }, { database: text }])
        expect(await inspection(changes)).toMatchObject({
          code: "target_rejected",
          detail: expect.stringMatching(/user or password|no such database/),
        });
    expect(await target.sql("select from notes")).toEqual([]);
  });

  test("the certificate of another is refused before anything is said", async () => {
    await using line = await wire(url, { tls: certificateFor("127.0.0.1") });
    const error = await inspection({ port: line.port, tls: "verify-full", ca: certificateFor("127.0.0.1").cert });
    expect(error).toMatchObject({ code: "target_rejected", detail: expect.stringContaining("certificate") });
    expect(line.sent()).toBe("");
  });

  // Each in the one row that the server says first: version, standby.
  test.each([
    ["of version 13", "130014", "f", "16 or newer"],
    ["of version 15", "150009", "f", "accept_before_16"],
    ["that is a standby", undefined, "t", "register the primary"],
  ])("a server %s is refused", async (_what, version, standby, detail) => {
    await using line = await wire(url, {
      change: (answer) =>
        Buffer.from(
          answer
            .toString("latin1")
            .replace(/(\d{6})(\W{4})f/, (_all, real, length) => `${version ?? real}${length}${standby}`),
          "latin1",
        ),
    });
    const error = await inspection({ port: line.port, accept_before_16: false });
    expect(error).toMatchObject({ code: "target_refused", detail: expect.stringContaining(detail) });
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
