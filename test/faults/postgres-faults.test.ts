import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type Wire, wire } from "../issuers/wire.ts";
import { testSuperuserUrl } from "../support/database.ts";
import { type Answer, type Fleet, startFleet } from "../support/fleet.ts";
import { ownServer } from "../support/own-server.ts";
import { type MayflyProcess, startMayfly } from "../support/processes.ts";
import { until } from "../support/until.ts";
import { type PostgresFault, postgresFaults } from "./postgres-faults.ts";
import { endIt, mintSome } from "./queue.ts";

const server = ownServer(true);

const told: Readonly<Record<PostgresFault["mints"], RegExp>> = {
  refused: /^503 unavailable$/,
  served: /^201 $/,
  either: /^(201 |503 unavailable)$/,
  late: /^(201 |503 unavailable)$/,
};

describe("no mint is answered 2xx without a durable row, no process dies, and afterwards everything goes on and everything dies", () => {
  let line: Wire;
  let fleet: Fleet;
  let api: MayflyProcess;

  // One process for all of them: it outlives every one.
  beforeAll(async () => {
    line = await wire(testSuperuserUrl());
    fleet = await startFleet();
    const url = new URL(fleet.database.runtimeUrl);
    url.port = String(line.port);
    api = await startMayfly(["serve"], { env: { ...fleet.env, DATABASE_URL: url.href } });
  }, 120_000);
  afterAll(async () => {
    await api[Symbol.asyncDispose]();
    await fleet[Symbol.asyncDispose]();
    await line[Symbol.asyncDispose]();
  });

  const readiness = async (): Promise<number | undefined> =>
    (await fleet.call(api, "auditor", "GET", "/readyz"))?.status;
  const token = (taskId: string): Promise<Answer> =>
    fleet.call(api, fleet.seeded.agentSub, "POST", "/v1/credentials", {
      task_id: taskId,
      target: "tickets-api",
      actions: ["read"],
      resources: ["tickets"],
    });

  /** Every credential that somebody was given is in the ledger, and was activated there. */
  const expectInLedger = async (answers: readonly Answer[]): Promise<void> => {
    const given = answers.flatMap((answer) => (answer?.status === 201 ? [answer.body.credential.id] : []));
    const text = "select from mayfly.credentials where id = any($1) and activated_at is not null";
    expect(await fleet.sql(text, [given])).toHaveLength(given.length);
  };

  test.each(Object.entries(postgresFaults))(
    "with Postgres %s (reliability F3)",
    async (_name, { strike, heal, mints }) => {
      const struck = { fleet, server, line };
      const { taskId } = await mintSome(fleet, api);
      await strike(struck);
      const asked: Promise<Answer>[] = [];
      for (let index = 0; index < 8; index += 1) {
        const one = index % 2 === 0 ? fleet.mint(api, taskId, 300) : token(taskId);
        asked.push(one);
        if (mints === "served") await one;
      }
      if (mints === "late") await until("it is noticed", async () => (await readiness()) === 503);
      else await Promise.all(asked);
      await heal?.(struck);
      const answers = await Promise.all(asked);

      const first = await until("mints go on", async () => {
        const answer = await fleet.mint(api, taskId, 300);
        return answer?.status === 201 && answer;
      });
      await until("it is ready", async () => (await readiness()) === 200);
      await expectInLedger([...answers, first]);
      await endIt(fleet, api, taskId);
      await fleet.assertAllDead();
      for (const answer of answers) expect(`${answer?.status} ${answer?.body.code ?? ""}`).toMatch(told[mints]);
    },
    180_000,
  );
});
