import { expect, test } from "@jest/globals";
import { startApp } from "../support/app.ts";
import { ownServer } from "../support/own-server.ts";
import { seed } from "../support/seed.ts";
import { until } from "../support/until.ts";
import { mint, placeOf, revoke, statusAt } from "./harness.ts";
import { hears, listen, staysAlive } from "./listen.ts";

const server = ownServer();

test("while Postgres is away no reader is told that all is well, no old list is served, nothing is minted; then all goes on", async () => {
  await using app = await startApp({ env: { MAYFLY_QUEUE: "none" } });
  const s = await seed(app.broker, app.idp);
  const { id, token, taskId } = await mint(app, s);
  await using reader = await listen(app, await app.token({ sub: "auditor" }));
  await staysAlive(reader);
  expect((await statusAt(app, token)).status).toBe(0);
  await server.stop();
  await until("it is noticed", () => app.logged.some((line) => line.includes("does not say what was revoked")));
  const signs = reader.alive();
  // The list was in memory a moment ago, and still may not be served.
  const list = await until("no list is served", async () => {
    const answer = await app.call(null, "GET", new URL(placeOf(token).uri).pathname);
    return answer.status !== 200 && answer;
  });
  expect([list.status, list.body.code]).toEqual([503, "unavailable"]);
  await expect(mint(app, s, taskId)).rejects.toThrow("unavailable");
  expect(reader.alive()).toBe(signs);
  const heardBefore = reader.heard.length;
  await server.start();
  await until("it can be revoked", async () => {
    await revoke(app, id).catch(() => undefined);
    return reader.told().includes(id);
  });
  await hears(reader, [id]);
  // Nobody knows what was missed, so it is told anew.
  expect(reader.heard[heardBefore]?.data.complete).toBe(true);
  await staysAlive(reader);
  expect((await statusAt(app, token)).status).toBe(1);
}, 180_000);
