import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { type AgentClient, connect, TaskTokens } from "../../examples/mcp/client.ts";
import { type Party, party } from "../../examples/mcp/keys.ts";
import { type Registered, register, type Speak } from "../../examples/mcp/register.ts";
import { ticketServer } from "../../examples/mcp/server.ts";
import { newId } from "../../src/lib/ids.ts";
import { createVerifier, type Verifier } from "../../src/verify/index.ts";
import { mint } from "../status/harness.ts";
import { type App, startApp } from "../support/app.ts";
import { aTarget, type Seeded, seed } from "../support/seed.ts";
import { until } from "../support/until.ts";

let app: App;
let s: Seeded;
let issuer: string;
let http: Server;
let mcpUrl: string;
let agent: AgentClient;
let tool: Party;
let registered: Registered;
let verifier: Verifier;
const clients: Client[] = [];

beforeAll(async () => {
  app = await startApp();
  s = await seed(app.broker, app.idp);
  issuer = app.broker.issuerUrl("default");
  http = createServer();
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  mcpUrl = `http://127.0.0.1:${(http.address() as AddressInfo).port}/mcp`;
  const keys = await party("triage-bot");
  tool = await party("ticket-mcp");
  agent = { clientId: keys.clientId, privateKey: keys.privateKey, issuer, mcpUrl };
  registered = await register({
    admin: as("admin"),
    approver: as("approver"),
    orchestrator: as("orchestrator"),
    mcpUrl,
    agent: keys,
    tool,
  });
  verifier = await createVerifier({
    issuer,
    audience: mcpUrl,
    authorization: async () => `Bearer ${await tool.token(issuer)}`,
    allowBearer: true,
  });
  http.on("request", ticketServer(verifier));
});
afterAll(async () => {
  for (const client of clients) await client.close();
  await verifier.close();
  http.closeAllConnections();
  await new Promise((resolve) => http.close(resolve));
  await app[Symbol.asyncDispose]();
});

const as =
  (sub: string): Speak =>
  async (method, path, body, headers) =>
    app.call(await app.token({ sub }), method, path, body, headers);

const call = (name: string, id = 1): object => ({
  jsonrpc: "2.0",
  id,
  method: "tools/call",
  params: { name, arguments: { id: 7 } },
});

/** One POST to the MCP server, without the SDK. */
async function post(
  token: string | null,
  body: unknown,
  path = "",
): Promise<{ status: number; challenge: string; body: any }> {
  const response = await fetch(`${mcpUrl}${path}`, {
    method: "POST",
    headers: {
      ...(token === null ? {} : { authorization: `Bearer ${token}` }),
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
    },
    body: JSON.stringify(body),
  });
  return {
    status: response.status,
    challenge: response.headers.get("www-authenticate") ?? "",
    body: await response.json(),
  };
}

/** The agent, connected with the SDK for a new task of its own. */
async function connected(actions: readonly string[]): Promise<{ client: Client; tokens: TaskTokens; taskId: string }> {
  const taskId = await registered.openTask();
  const tokens = new TaskTokens(agent, { taskId, actions, resources: ["support-tickets"] });
  const client = await connect(agent, tokens);
  clients.push(client);
  return { client, tokens, taskId };
}

const tokenOf = (tokens: TaskTokens): string => tokens.tokens()?.access_token ?? "";
const namesOf = async (client: Client): Promise<string[]> => (await client.listTools()).tools.map(({ name }) => name);

describe("the MCP example", () => {
  test("without a token: 401, and the metadata where the challenge says (RFC 9728)", async () => {
    const { status, challenge } = await post(null, call("read_ticket"));
    expect(status).toBe(401);
    const [, url = ""] = /Bearer realm="[^"]*", resource_metadata="([^"]+)"/.exec(challenge) ?? [];
    const metadata = await (await fetch(url)).json();
    expect(metadata).toMatchObject({ resource: mcpUrl, authorization_servers: [issuer] });
  });

  test("the SDK's client finds the issuer, gets an audience-bound token, and sees and calls what it allows", async () => {
    const { client, tokens, taskId } = await connected(["read"]);
    const claims = JSON.parse(Buffer.from(tokenOf(tokens).split(".")[1] ?? "", "base64url").toString());
    expect(claims).toMatchObject({ iss: issuer, aud: mcpUrl, sub: registered.agentId });
    expect(claims.authorization_details).toMatchObject([{ task_id: taskId, actions: ["read"] }]);
    expect(claims.exp - claims.iat).toBeLessThanOrEqual(300);
    expect(await namesOf(client)).toEqual(["read_ticket"]);
    expect(await client.callTool({ name: "read_ticket", arguments: { id: 7 } })).toMatchObject({
      content: [{ type: "text", text: "printer on fire" }],
    });
    const uses = await until("the use was reported", async () => {
      const { body } = await as("auditor")("GET", `/v1/credentials/${claims.jti}/uses`);
      return body.items?.length > 0 ? body.items : undefined;
    });
    expect(uses).toMatchObject([{ action: "read", resource: "support-tickets", outcome: "allowed" }]);
  });

  test("a token for both tools sees both", async () => {
    expect(await namesOf((await connected(["read", "close"])).client)).toEqual(["read_ticket", "close_ticket"]);
  });

  test("a tool outside the token: 403 insufficient_scope, not run, reported; other methods go on", async () => {
    const { client, tokens } = await connected(["read"]);
    const { status, challenge, body } = await post(tokenOf(tokens), call("close_ticket"));
    expect(status).toBe(403);
    expect(challenge).toMatch(/^Bearer error="insufficient_scope", .*resource_metadata="/);
    expect(body.code).toBe("insufficient_scope");
    const { jti } = JSON.parse(Buffer.from(tokenOf(tokens).split(".")[1] ?? "", "base64url").toString());
    await until("the refusal was reported", async () => {
      const found = await as("auditor")("GET", `/v1/credentials/${jti}/uses`);
      return found.body.items?.some(({ outcome }: { outcome: string }) => outcome === "refused");
    });
    await expect(client.callTool({ name: "close_ticket", arguments: { id: 7 } })).rejects.toThrow("403");
    expect(await client.callTool({ name: "read_ticket", arguments: { id: 7 } })).toMatchObject({
      content: [{ text: "printer on fire" }],
    });
  });

  test("no call hides in a batch", async () => {
    const { tokens } = await connected(["read"]);
    const { status } = await post(tokenOf(tokens), [call("read_ticket"), call("close_ticket", 2)]);
    expect(status).toBe(400);
  });

  test("a token in the query is none", async () => {
    const { tokens } = await connected(["read"]);
    expect((await post(null, call("read_ticket"), `?access_token=${tokenOf(tokens)}`)).status).toBe(401);
  });

  test("the task ends: its token is refused as the stream tells, and the SDK gets no other", async () => {
    const { client, tokens, taskId } = await connected(["read"]);
    const token = tokenOf(tokens);
    expect((await post(token, call("read_ticket"))).status).toBe(200);
    await registered.endTask(taskId);
    expect(verifier.state().stream).toBe("connected");
    const refused = await until("the token is refused", async () => {
      const answer = await post(token, call("read_ticket"));
      return answer.status === 200 ? undefined : answer;
    });
    expect(refused).toMatchObject({ status: 401, body: { code: "token_revoked" } });
    expect(refused.challenge).toMatch(/^Bearer error="invalid_token"/);
    await expect(client.callTool({ name: "read_ticket", arguments: { id: 7 } })).rejects.toThrow("ended");
    expect((await post(token, { jsonrpc: "2.0", id: 3, method: "tools/list" })).status).toBe(401);
  });

  test("a token of the same issuer for another API is refused", async () => {
    const { token } = await mint(app, s);
    expect(await post(token, call("read_ticket"))).toMatchObject({
      status: 401,
      body: { code: "token_audience_mismatch" },
    });
  });

  test("a token of another tenant is refused, though it is for the same audience", async () => {
    const other = newId("tenant");
    await app.broker.db.withTenant({ tenantId: other, actor: "test" }, (tx) =>
      tx.insertInto("tenants").values({ id: other, name: "elsewhere", display_name: "Other" }).execute(),
    );
    const theirs = await seed(app.broker, app.idp, { tenantId: other });
    await app.broker.db.withTenant({ tenantId: other, actor: "test" }, (tx) =>
      aTarget(tx, app.broker, {
        tenantId: other,
        ownerId: theirs.ownerId,
        name: "ticket-mcp",
        issuer: "jwt",
        config: { audience: mcpUrl },
        resources: { [theirs.resourceId]: { read: {} } },
      }),
    );
    const elsewhere: App = { ...app, token: (claims) => app.token(claims, "elsewhere") };
    const { token } = await mint(elsewhere, theirs, undefined, { target: "ticket-mcp", via: elsewhere });
    expect(JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString())).toMatchObject({ aud: mcpUrl });
    expect(await post(token, call("read_ticket"))).toMatchObject({
      status: 401,
      body: { code: "token_issuer_unknown" },
    });
  });

  test("an agent of another issuer does not show its assertion to this one", async () => {
    const stray = { ...agent, issuer: `${new URL(issuer).origin}/t/elsewhere` };
    const tokens = new TaskTokens(stray, { taskId: newId("task"), actions: ["read"], resources: ["support-tickets"] });
    await expect(connect(stray, tokens)).rejects.toThrow("takes no tokens of our issuer");
  });

  test("what the admin's exception is for: without it the agent has no bearer token", async () => {
    const { body } = await as("admin")("GET", `/v1/agents/${registered.agentId}`);
    const set = (seconds: number | null, version: number): ReturnType<Speak> =>
      as("admin")(
        "PATCH",
        `/v1/agents/${registered.agentId}`,
        { bearer_ttl_seconds: seconds },
        { "if-match": `"${version}"` },
      );
    const without = await set(null, body.version);
    expect(without.status).toBe(200);
    await expect(connected(["read"])).rejects.toThrow("tokens are bound to a key of their holder");
    expect((await set(300, without.body.version)).status).toBe(200);
  });
});
