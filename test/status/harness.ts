import { inflateSync } from "node:zlib";
import { getStatusListFromJWT } from "@sd-jwt/jwt-status-list";
import { createRemoteJWKSet, type JWTPayload, jwtVerify } from "jose";
import { type App, startApp } from "../support/app.ts";
import type { Seeded } from "../support/seed.ts";

/** Another API on the database of the first, with its keys and under its name, as a load balancer has them. */
export function replicaOf(app: App, env: Readonly<Record<string, string>> = {}): Promise<App> {
  return startApp({
    database: app.database,
    worker: false,
    env: { MAYFLY_KEK: app.env["MAYFLY_KEK"] ?? "", MAYFLY_PUBLIC_URL: app.broker.publicUrl(), ...env },
  });
}

/** A token of ours, as its holder has it. */
export interface Minted {
  readonly id: string;
  readonly token: string;
  readonly taskId: string;
}

/** Mints a JWT of the seeded agent for a new task, or for `taskId`. */
export async function mint(
  app: App,
  s: Seeded,
  taskId?: string,
  { target = "tickets-api", via = app }: { target?: string; via?: App } = {},
): Promise<Minted> {
  const task = taskId ?? (await openTask(app, s));
  const { status, body } = await via.call(await app.token({ sub: s.agentSub }), "POST", "/v1/credentials", {
    task_id: task,
    target,
    actions: ["read"],
    resources: ["tickets"],
    ttl_seconds: 300,
  });
  if (status !== 201) throw new Error(`not minted: ${JSON.stringify(body)}`);
  return { id: body.credential.id, token: body.secret.access_token, taskId: task };
}

export async function openTask(app: App, s: Seeded): Promise<string> {
  const { status, body } = await app.call(await app.token({ sub: "orchestrator" }), "POST", "/v1/tasks", {
    agent_id: s.agentId,
    purpose_id: s.purposeId,
    objective: "look at ticket 7",
    initiated_by: { kind: "system", id: "test" },
    deadline: new Date(Date.now() + 3_600_000).toISOString(),
  });
  if (status !== 201) throw new Error(`no task: ${JSON.stringify(body)}`);
  return body.id;
}

/** Takes a credential back, as an orchestrator does. */
export async function revoke(app: App, id: string): Promise<void> {
  const { status } = await app.call(await app.token({ sub: "orchestrator" }), "POST", `/v1/credentials/${id}/revoke`);
  if (status !== 200) throw new Error(`not revoked: ${status}`);
}

/** The place that a token names, read by a library that is not ours. */
export function placeOf(token: string): { readonly idx: number; readonly uri: string } {
  return getStatusListFromJWT(token);
}

/** The status of a token as this API's list has it: fetched, its signature and type verified, and the bit read as the draft says. */
export async function statusAt(
  app: App,
  token: string,
): Promise<{ readonly status: number; readonly list: JWTPayload; readonly text: string }> {
  const { idx, uri } = placeOf(token);
  const path = new URL(uri).pathname;
  const answer = await app.call(null, "GET", path);
  if (answer.status !== 200) throw new Error(`no list: ${answer.status}`);
  const keys = createRemoteJWKSet(
    new URL(`http://127.0.0.1:${app.api.port}${path.replace(/\/status\/.*/, "")}/.well-known/jwks.json`),
  );
  const { payload } = await jwtVerify(answer.text, keys, {
    typ: "statuslist+jwt",
    requiredClaims: ["sub", "iat", "exp"],
  });
  if (payload.sub !== uri) throw new Error("the list is not the one that the token names");
  const { lst } = payload["status_list"] as { lst: string };
  const bytes = inflateSync(Buffer.from(lst, "base64url"));
  return { status: ((bytes[Math.floor(idx / 8)] ?? Number.NaN) >> (idx % 8)) & 1, list: payload, text: answer.text };
}
