import { createRemoteJWKSet, jwtVerify } from "jose";
import pg from "pg";
import { type Holder, holder } from "./holder.ts";
import { createScript, NotProven, type Script, type Speak, speaker, until } from "./script.ts";
import { type Stage, setStage } from "./stage.ts";

/** What the registry told us, for the scenes after it. */
interface Cast {
  readonly alice: Speak;
  readonly bob: Speak;
  readonly orchestrator: Speak;
  readonly agent: Speak;
  readonly holder: Holder;
  readonly agentId: string;
  readonly purposeId: string;
  readonly purposeVersion: string;
}

/**
 * The main job on a stack of its own, against the running HTTP API, played by the three kinds of users: registered,
 * refused, minted, used, taken back, proven dead, and told by the history. Resolves with 0, or with 1 at the first
 * step that does not hold.
 */
export async function runDemo(): Promise<number> {
  const script = createScript((text) => process.stdout.write(text));
  try {
    process.stdout.write("Mayfly: a credential is minted for a task, used, taken back, and proven dead\n");
    await using stage = await setStage();
    script.scene("Nothing was installed or configured; Mayfly runs its own PostgreSQL and queue");
    script.prove(`ready at ${stage.api} after ${(stage.startedInMs / 1000).toFixed(1)} s`, true);
    const cast = await register(script, stage);
    await refuse(script, cast);
    const first = await readTickets(script, cast);
    await useToken(script, stage, cast);
    await history(script, cast, first);
    process.stdout.write("\nEverything held. Nothing of it is left on this machine.\n");
    return 0;
  } catch (error) {
    if (!(error instanceof NotProven)) throw error;
    process.stdout.write(`   ✗ ${error.message}\n\nThe demo ends here: a step did not hold.\n`);
    return 1;
  }
}

/** An admin names an owner, an agent with a provable identity, what can be reached, and a purpose that another approves. */
async function register(script: Script, stage: Stage): Promise<Cast> {
  script.scene("An admin registers who may do what (with the 15-minute token of `mayfly admin-token`)");
  const first = speaker(stage.api, stage.adminToken);
  const create = async (by: Speak, path: string, body: object): Promise<{ id: string; version: number }> => {
    const made = await by("POST", path, body);
    if (made.status !== 201) throw new NotProven(`POST ${path} answered ${made.status}: ${JSON.stringify(made.body)}`);
    return made.body;
  };
  const trust = await create(first, "/v1/trust-sources", {
    kind: "oidc",
    name: "company-idp",
    issuer: stage.issuer,
    role_mappings: [
      { when: [{ claim: "sub", equals: "alice" }], roles: ["admin", "auditor"] },
      { when: [{ claim: "sub", equals: "bob" }], roles: ["approver"] },
      { when: [{ claim: "sub", equals: "orchestrator" }], roles: ["orchestrator"] },
    ],
  });
  script.say("from here on everyone is who the company's identity provider says they are");
  const alice = speaker(stage.api, await stage.token("alice"));
  const owner = await create(alice, "/v1/owners", { kind: "human", name: "alice" });
  const agent = await create(alice, "/v1/agents", {
    kind: "agent",
    name: "triage-bot",
    owner_id: owner.id,
    environment: "staging",
  });
  await alice("POST", `/v1/agents/${agent.id}/state`, { state: "active" });
  await create(alice, "/v1/identities", {
    trust_source_id: trust.id,
    agent_id: agent.id,
    anchor_claim: "sub",
    anchor_value: "workload/triage-bot",
  });
  const tickets = await create(alice, "/v1/resources", {
    name: "tickets",
    kind: "dataset",
    owner_id: owner.id,
    classification: "internal",
    environment: "staging",
    risk: "low",
    operations: { read: "read", close: "write" },
  });
  const database = await alice("POST", "/v1/targets", {
    name: "company-db",
    issuer: "postgres",
    owner_id: owner.id,
    max_ttl_seconds: 900,
    config: stage.target,
    resources: [{ resource: tickets.id, access: { read: { roles: ["ticket_readers"] } } }],
  });
  script.prove(
    `a target is accepted only after a canary was minted, seen alive, revoked and seen dead (${database.body?.canary?.took_ms} ms)`,
    database.status === 201 && database.body.canary.state === "passed",
    database,
  );
  await create(alice, "/v1/targets", {
    name: "tickets-api",
    issuer: "jwt",
    owner_id: owner.id,
    max_ttl_seconds: 900,
    config: { audience: "https://tickets.example/api" },
    resources: [{ resource: tickets.id, access: { read: {}, write: {} } }],
  });
  const inAMonth = new Date(Date.now() + 30 * 86_400_000).toISOString();
  const purpose = await create(alice, "/v1/purposes", {
    agent_id: agent.id,
    name: "triage",
    description: "Read new tickets and suggest who should look at them",
    actions: ["read"],
    resource_ids: [tickets.id],
    data_classes: ["internal"],
    environments: ["staging"],
    max_ttl_seconds: 600,
    reviewer_id: owner.id,
    review_by: inAMonth,
    expires_at: inAMonth,
  });
  return {
    alice,
    bob: speaker(stage.api, await stage.token("bob")),
    orchestrator: speaker(stage.api, await stage.token("orchestrator")),
    agent: speaker(stage.api, await stage.token("workload/triage-bot")),
    holder: await holder(stage.api, await stage.token("workload/triage-bot")),
    agentId: agent.id,
    purposeId: purpose.id,
    purposeVersion: String(purpose.version),
  };
}

async function openTask(
  cast: Cast,
  objective: string,
): Promise<{ status: number; body: { id: string; code?: string; reasons?: { code: string }[] } }> {
  return cast.orchestrator("POST", "/v1/tasks", {
    agent_id: cast.agentId,
    purpose_id: cast.purposeId,
    objective,
    initiated_by: { kind: "human", id: "carol" },
    deadline: new Date(Date.now() + 600_000).toISOString(),
  });
}

async function refuse(script: Script, cast: Cast): Promise<void> {
  script.scene("No purpose, no credential");
  const tooEarly = await openTask(cast, "triage ticket 7");
  script.prove(
    "without an approved purpose there is no task, and so no credential: purpose_not_approved",
    tooEarly.status === 403 && tooEarly.body.reasons?.[0]?.code === "purpose_not_approved",
    tooEarly,
  );
  const own = await cast.alice("POST", `/v1/purposes/${cast.purposeId}/approve`, undefined, cast.purposeVersion);
  script.prove(`who proposed it cannot approve it (${own.status})`, own.status === 403 || own.status === 409, own);
  const approved = await cast.bob("POST", `/v1/purposes/${cast.purposeId}/approve`, undefined, cast.purposeVersion);
  script.prove("another person can", approved.status === 200 && approved.body.state === "approved", approved);
  const task = await openTask(cast, "close ticket 7");
  const outside = await cast.agent("POST", "/v1/credentials", {
    task_id: task.body.id,
    target: "tickets-api",
    actions: ["close"],
    resources: ["tickets"],
  });
  const codes = (outside.body?.reasons ?? []).map((reason: { code: string }) => reason.code);
  script.prove(
    `an action outside the purpose is refused: ${codes.join(", ")}`,
    outside.status === 403 && codes.includes("action_outside_purpose"),
    outside,
  );
  await cast.orchestrator("POST", `/v1/tasks/${task.body.id}/end`, { outcome: "cancelled" });
}

async function readTickets(script: Script, cast: Cast): Promise<string> {
  script.scene("An agent gets a database login for one task, and it dies with its TTL");
  const task = await openTask(cast, "triage ticket 7");
  const minted = await cast.agent("POST", "/v1/credentials", {
    task_id: task.body.id,
    target: "company-db",
    actions: ["read"],
    resources: ["tickets"],
    ttl_seconds: 6,
  });
  if (minted.status !== 201) throw new NotProven(`the mint answered ${minted.status}: ${JSON.stringify(minted.body)}`);
  const { username, password, host, port, database } = minted.body.secret;
  const login = { user: username, password, host, port, database };
  script.prove(`minted: login role ${username.slice(0, 24)}…, to end at ${minted.body.credential.expires_at}`, true);
  const session = new pg.Client(login);
  const cut = new Promise<number>((resolve) => session.on("error", () => resolve(Date.now())));
  await session.connect();
  const { rows } = await session.query("select title from tickets where id = 7");
  script.prove(`a real client reads with it: "${rows[0]?.title}"`, rows[0]?.title === "printer on fire", rows);
  const written = await session.query("delete from tickets").then(
    () => "done",
    (error: { code: string }) => error.code,
  );
  script.prove(`and may not write (SQLSTATE ${written})`, written === "42501", written);
  const cutAt = await cut;
  const late = cutAt - Date.parse(minted.body.credential.expires_at);
  script.prove(`its open session was cut ${late} ms after its end`, late < 5_000, late);
  const refused = await new pg.Client(login).connect().then(
    () => "let in",
    (error: { code: string }) => error.code,
  );
  script.prove(`the same login is refused now (SQLSTATE ${refused})`, refused.startsWith("28"), refused);
  await cast.orchestrator("POST", `/v1/tasks/${task.body.id}/end`, { outcome: "completed" });
  return minted.body.credential.id;
}

async function useToken(script: Script, stage: Stage, cast: Cast): Promise<void> {
  script.scene("An agent gets a JWT for one task, and it is dead when the task ends");
  const task = await openTask(cast, "triage ticket 8");
  const ask = {
    task_id: task.body.id,
    target: "tickets-api",
    actions: ["read"],
    resources: ["tickets"],
    ttl_seconds: 300,
  };
  const unproven = await cast.agent("POST", "/v1/credentials", ask);
  script.prove(
    `no token that whoever holds it could use: ${unproven.body.reasons?.[0]?.code}`,
    unproven.status === 403 && unproven.body.reasons[0].code === "binding_required",
    unproven,
  );
  const minted = await cast.holder.post("/v1/credentials", ask);
  if (minted.status !== 201) throw new NotProven(`the mint answered ${minted.status}: ${JSON.stringify(minted.body)}`);
  const token: string = minted.body.secret.access_token;
  const { payload } = await jwtVerify(
    token,
    createRemoteJWKSet(new URL(`${stage.api}/t/default/.well-known/jwks.json`)),
    {
      issuer: `${stage.api}/t/default`,
      audience: "https://tickets.example/api",
      typ: "at+jwt",
    },
  );
  script.prove(
    `a verifier that knows only the published keys accepts it (${payload.jti?.slice(0, 12)}…, task ${task.body.id.slice(0, 12)}…)`,
    payload.jti === minted.body.credential.id,
    payload,
  );
  script.prove(
    "it is bound to the key that the agent has proven (cnf.jkt)",
    (payload["cnf"] as { jkt?: string } | undefined)?.jkt === cast.holder.thumbprint,
    payload,
  );
  const introspect = async (): Promise<{ active: boolean }> => {
    const response = await fetch(`${stage.api}/oauth/introspect`, {
      method: "POST",
      headers: {
        authorization: `Bearer ${await stage.token("orchestrator")}`,
        "content-type": "application/x-www-form-urlencoded",
      },
      body: new URLSearchParams({ token }),
    });
    return (await response.json()) as { active: boolean };
  };
  const alive = await introspect();
  script.prove("introspection says active", alive.active, alive);
  await cast.orchestrator("POST", `/v1/tasks/${task.body.id}/end`, { outcome: "completed" });
  const dead = await introspect();
  script.prove(
    "the task has ended: introspection says inactive at once",
    !dead.active && Object.keys(dead).length === 1,
    dead,
  );
}

async function history(script: Script, cast: Cast, first: string): Promise<void> {
  script.scene("An auditor asks what was issued, why, and how it died");
  const all = await until("everything is proven dead", async () => {
    const { body } = await cast.alice("GET", `/v1/credentials?agent=${cast.agentId}`);
    return body.items.every((item: { receipt: unknown }) => item.receipt !== null) ? body.items : undefined;
  });
  for (const item of all)
    script.say(
      `${item.id.slice(0, 16)}…  ${item.issuer.padEnd(8)} ${item.state.padEnd(8)} because ${item.state_reason.padEnd(10)}  proof: ${item.receipt.probe}, ${item.receipt.lag_ms} ms after it was due, ended by ${item.receipt.ended_by}`,
    );
  script.prove(`${all.length} credentials, each dead with a receipt`, all.length === 2, all);
  const one = await cast.alice("GET", `/v1/credentials/${first}`);
  script.prove(
    `why it existed: purpose "${one.body.purpose.name}" approved by another, owner ${one.body.owner.name}, policy version ${one.body.decision.policy_version} (${one.body.decision.determining.join(", ")})`,
    one.body.decision.outcome === "allow",
    one,
  );
  const denied = await cast.alice("GET", `/v1/audit?type=credential.denied&agent=${cast.agentId}`);
  script.prove(
    `the refusal is evidence too: ${denied.body.items.length} credential.denied`,
    denied.body.items.length === 2,
    denied,
  );
  const when = new Date(Date.parse(one.body.activated_at) + 100).toISOString();
  const then = await cast.alice("GET", `/v1/credentials?valid_at=${encodeURIComponent(when)}`);
  script.prove(
    `asked who held what at ${when}: exactly that login`,
    then.body.items.length === 1 && then.body.items[0].id === first,
    then,
  );
}
