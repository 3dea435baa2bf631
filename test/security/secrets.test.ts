import { createHash } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import pg from "pg";
import { canonicalJson } from "../../src/lib/canonical-json.ts";
import { type App, startApp } from "../support/app.ts";
import { type PostgresTarget, postgresTarget } from "../support/postgres-target.ts";
import { aTarget, type Seeded, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

let app: App;
let s: Seeded;
let target: PostgresTarget;

beforeAll(async () => {
  app = await startApp({ env: { MAYFLY_LOG_LEVEL: "trace" } });
  s = await seed(app.broker, app.idp);
  target = await postgresTarget();
  await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
    aTarget(tx, app.broker, {
      tenantId: s.tenantId,
      ownerId: s.ownerId,
      name: "tickets-db",
      issuer: "postgres",
      config: target.config,
      resources: { [s.resourceId]: { read: { roles: [target.readers] } } },
    }),
  );
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});

/** Every row of every table of Mayfly and of the queue, as text, as a thief of the database would have it. */
async function everythingStored(): Promise<string> {
  const client = new pg.Client({ connectionString: app.database.superuserUrl });
  await client.connect();
  try {
    const tables = await client.query(
      "select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname in ('mayfly', 'bullmq', 'public')",
    );
    const texts = await Promise.all(
      tables.rows.map(async ({ name }) => {
        const { rows } = await client.query(`select t::text as row, to_jsonb(t)::text as json from ${name} t`);
        return rows.map(({ row, json }) => `${row}\n${json}`).join("\n");
      }),
    );
    const statements = await client.query("select string_agg(query, E'\\n') as text from pg_stat_activity");
    return [...texts, String(statements.rows[0].text)].join("\n");
  } finally {
    await client.end();
  }
}

const spellings = (secret: string): string[] => [
  secret,
  encodeURIComponent(secret),
  Buffer.from(secret).toString("base64"),
  Buffer.from(secret).toString("base64url"),
  Buffer.from(secret).toString("hex"),
];

test("invariant 11: no secret that was handed out or shown to us is in any table, queue, log, metric or error", async () => {
  const secrets: string[] = [];
  const remember = (secret: string): string => {
    secrets.push(secret);
    // The signature alone is as good as the token to someone who has the rest of it.
    const signature = /^[\w-]+\.[\w-]+\.([\w-]+)$/.exec(secret)?.[1];
    if (signature !== undefined) secrets.push(signature);
    return secret;
  };
  const agent = remember(await app.token({ sub: s.agentSub }));
  const orchestrator = remember(await app.token({ sub: "orchestrator" }));
  const answers: string[] = [];
  const task = await app.call(orchestrator, "POST", "/v1/tasks", {
    agent_id: s.agentId,
    purpose_id: s.purposeId,
    objective: "secrets",
    initiated_by: { kind: "system", id: "test" },
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
  });
  const ask = (body: object, headers = {}) =>
    app.call(
      agent,
      "POST",
      "/v1/credentials",
      { task_id: task.body.id, actions: ["read"], resources: ["tickets"], ttl_seconds: 30, ...body },
      headers,
    );
  for (let round = 0; round < 10; round += 1) {
    for (const name of ["tickets-api", "tickets-db"]) {
      const minted = await ask({ target: name }, { "idempotency-key": `k-${name}-${round % 5}` });
      expect(minted.status).toBe(201);
      for (const field of ["access_token", "password", "url"])
        if (minted.body.secret[field] !== undefined) remember(minted.body.secret[field]);
    }
  }
  // Refusals and failures of every sort carry what the caller sent past us, too.
  const planted = remember("Hunter2-planted-Secret-value");
  answers.push((await ask({ target: planted })).text);
  answers.push((await ask({ target: "tickets-db", actions: [planted] })).text);
  answers.push((await app.call(planted, "POST", "/v1/credentials", {})).text);
  answers.push((await app.call(`${agent.slice(0, -4)}AAAA`, "POST", "/v1/credentials", {})).text);
  remember(String(target.config["password"]));
  await app.call(
    orchestrator,
    "POST",
    "/oauth/introspect",
    new URLSearchParams({ token: secrets[4] ?? "" }).toString(),
    { "content-type": "application/x-www-form-urlencoded" },
  );
  await app.call(orchestrator, "POST", `/v1/tasks/${task.body.id}/end`, { outcome: "completed" });
  await until(
    "everything is dead",
    async () => (await app.call(orchestrator, "GET", `/v1/tasks/${task.body.id}`)).body.credentials.revoking === 0,
  );
  answers.push((await app.call(await app.token({ sub: "auditor" }), "GET", "/v1/audit?page_size=200")).text);
  answers.push((await app.call(await app.token({ sub: "auditor" }), "GET", "/v1/credentials?page_size=200")).text);

  const surfaces: Record<string, string> = {
    stored: await everythingStored(),
    logs: app.logged.join("\n"),
    metrics: await app.broker.metrics.registry.metrics(),
    answers: answers.join("\n"),
  };
  expect(secrets.length).toBeGreaterThan(40);
  // The search itself must be able to find: what is known to be there, is found.
  expect(surfaces["stored"]).toContain(task.body.id);
  expect(surfaces["logs"]).toContain("/v1/credentials");
  const found = Object.entries(surfaces).flatMap(([where, text]) =>
    secrets.flatMap((secret) =>
      spellings(secret)
        .filter((spelling) => text.includes(spelling))
        .map(() => `${where}: ${secret.slice(0, 12)}…`),
    ),
  );
  expect(found).toEqual([]);
});

test("what is kept of a request body under an Idempotency-Key cannot be guessed without the key encryption key", async () => {
  const body = JSON.stringify({
    agent_id: s.agentId,
    purpose_id: s.purposeId,
    objective: "fingerprints",
    initiated_by: { kind: "system", id: "test" },
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
  });
  const post = async (to: App) =>
    to.call(await app.idp.token(to.broker.issuerUrl("default"), { sub: "orchestrator" }), "POST", "/v1/tasks", body, {
      "idempotency-key": "fingerprint",
    });
  const first = await post(app);
  expect(first.status).toBe(201);
  const stored = await everythingStored();
  for (const guess of [body, `${canonicalJson([{}, ""])}\n${body}`])
    expect(stored).not.toContain(createHash("sha256").update(guess).digest("hex"));

  const others = { database: app.database, worker: false };
  await using twin = await startApp({ ...others, env: { MAYFLY_KEK: app.env["MAYFLY_KEK"] ?? "" } });
  const again = await post(twin);
  expect([again.text, again.headers.get("idempotency-replayed")]).toEqual([first.text, "true"]);
  await using stranger = await startApp(others);
  expect((await post(stranger)).body.code).toBe("idempotency_mismatch");
});
