import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type App, startApp } from "../support/app.ts";
import { testDirectory } from "../support/directory.ts";
import { runMayfly, startMayfly } from "../support/processes.ts";
import { seed } from "../support/seed.ts";

let app: App;

beforeAll(async () => {
  app = await startApp({ worker: false, env: { MAYFLY_PUBLIC_URL: "http://127.0.0.1:8377" } });
  await seed(app.broker, app.idp);
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
});

describe("mayfly admin-token", () => {
  test("prints a token that the API takes as an admin's, leaves an event, and prints nothing else", async () => {
    const { code, stdout, stderr } = await runMayfly(["admin-token", "--subject", "first"], app.env);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const token = stdout.trim();
    expect((await app.call(token, "GET", "/v1/agents")).status).toBe(200);
    const events = await app.call(token, "GET", "/v1/audit?type=admin_token.printed");
    expect(events.body.items).toMatchObject([{ actor: "mayfly-cli|first", data: { roles: ["admin"] } }]);
    expect((await app.call(token, "POST", "/v1/credentials", {})).status).toBe(403);
  });

  test("gives an operator's token in the system tenant alone", async () => {
    expect(await runMayfly(["admin-token", "--role", "operator"], app.env)).toMatchObject({ code: 2, stdout: "" });
    const { stdout } = await runMayfly(["admin-token", "--tenant", "system", "--role", "operator"], app.env);
    expect((await app.call(stdout.trim(), "GET", "/v1/tenants")).status).toBe(200);
    expect((await app.call(stdout.trim(), "GET", "/v1/agents")).status).toBe(403);
  });

  test("is refused for a tenant that does not exist", async () => {
    expect(await runMayfly(["admin-token", "--tenant", "nobody"], app.env)).toMatchObject({ code: 1, stdout: "" });
  });
});

test("an unknown command says what there is, and exits with 2", async () => {
  const { code, stderr } = await runMayfly(["fly"], app.env);
  expect(code).toBe(2);
  expect(stderr).toMatch(/admin-token/);
});

test("a configuration that cannot be is refused at once, with the name of the variable and without its value", async () => {
  const { code, stderr } = await runMayfly(["serve"], { ...app.env, MAYFLY_KEK: "hunter2" });
  expect(code).toBe(1);
  expect(stderr).toMatch(/MAYFLY_KEK/);
  expect(stderr).not.toMatch(/hunter2/);
});

test("a Mayfly that served nobody leaves no embedded database behind when it stops", async () => {
  await using directory = await testDirectory();
  await using mayfly = await startMayfly(["serve"], { env: { MAYFLY_DATA_DIR: directory.path, MAYFLY_PORT: "0" } });
  // The server has it as long as it runs.
  const pidFile = join(directory.path, "postgres", "data", "postmaster.pid");
  const server = Number((await readFile(pidFile, "utf8")).split("\n")[0]);
  try {
    expect(await mayfly.stop()).toBe(0);
    expect(existsSync(pidFile)).toBe(false);
  } finally {
    if (existsSync(pidFile)) process.kill(server, "SIGQUIT");
  }
});
