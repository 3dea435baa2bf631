import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createVerifier } from "mayfly/verify";
import { connect, TaskTokens } from "./client.ts";
import { party } from "./keys.ts";
import { startMayfly } from "./mayfly.ts";
import { register, type Speak } from "./register.ts";
import { ticketServer } from "./server.ts";

/** Plays the whole story on this machine, and ends with an error at the first step that does not hold. */
async function main(): Promise<void> {
  step("Mayfly starts, with a PostgreSQL of its own");
  await using mayfly = await startMayfly();
  const issuer = `${mayfly.url}/t/default`;
  say(`ready at ${mayfly.url}; the issuer of its tenant is ${issuer}`);

  step("An admin registers the MCP server, the agent, and why the agent may call it; another person approves");
  const company = await party("https://idp.example");
  const agent = await party("triage-bot");
  const tool = await party("ticket-mcp");
  const http = await listen();
  const mcpUrl = `http://127.0.0.1:${(http.address() as AddressInfo).port}/mcp`;
  await mustAnswer(
    201,
    speaker(mayfly.url, async () => mayfly.adminToken),
    "POST",
    "/v1/trust-sources",
    {
      name: "company-idp",
      kind: "key_set",
      issuer: company.clientId,
      jwks: { keys: [company.publicKey] },
      algorithms: ["ES256"],
      role_mappings: [
        { when: [{ claim: "sub", equals: "alice" }], roles: ["admin", "auditor"] },
        { when: [{ claim: "sub", equals: "bob" }], roles: ["approver"] },
        { when: [{ claim: "sub", equals: "orchestrator" }], roles: ["orchestrator"] },
      ],
    },
  );
  const as = (sub: string): Speak => speaker(mayfly.url, () => company.token(issuer, sub));
  const admin = as("alice");
  const { agentId, openTask, endTask } = await register({
    admin,
    approver: as("bob"),
    orchestrator: as("orchestrator"),
    mcpUrl,
    agent,
    tool,
  });

  step(`The MCP server listens at ${mcpUrl}`);
  const verifier = await createVerifier({
    issuer,
    audience: mcpUrl,
    authorization: async () => `Bearer ${await tool.token(issuer)}`,
    // MCP's SDK has no DPoP yet. Mayfly gives such tokens only to agents for which an admin made the exception.
    allowBearer: true,
  });
  http.on("request", ticketServer(verifier));
  const refused = await fetch(mcpUrl, { method: "POST" });
  prove("without a token it says 401, and where to ask for one", refused.status === 401);
  say(refused.headers.get("www-authenticate") ?? "");

  step("The agent gets a token for one task: to read tickets, not to close them");
  const taskId = await openTask();
  const tokens = new TaskTokens(
    { clientId: agent.clientId, privateKey: agent.privateKey, issuer, mcpUrl },
    { taskId, actions: ["read"], resources: ["support-tickets"] },
  );
  const client = await connect({ clientId: agent.clientId, privateKey: agent.privateKey, issuer, mcpUrl }, tokens);
  prove("discovered, authenticated with a signed assertion, connected", tokens.tokens() !== undefined);
  const { tools } = await client.listTools();
  prove(`tools/list shows what the token allows: ${tools.map(({ name }) => name).join(", ")}`, tools.length === 1);
  const read = await client.callTool({ name: "read_ticket", arguments: { id: 7 } });
  prove("read_ticket is answered", JSON.stringify(read.content).includes("printer on fire"));
  say(JSON.stringify(read.content));
  const closed = await client.callTool({ name: "close_ticket", arguments: { id: 7 } }).catch((error: Error) => error);
  prove("close_ticket is refused: 403 insufficient_scope", closed instanceof Error && closed.message.includes("403"));

  step("The task ends, and with it the token");
  const token = tokens.tokens()?.access_token ?? "";
  await endTask(taskId);
  const endedAt = performance.now();
  let letIn = 0;
  let answer = await callRead(mcpUrl, token);
  for (; answer.status === 200; letIn += 1) answer = await callRead(mcpUrl, token);
  const after = Math.round(performance.now() - endedAt);
  prove(`the MCP server refuses it: ${answer.status} ${answer.code}`, answer.code === "token_revoked");
  say(`${after} ms after the task ended; until then ${letIn} calls were let in`);
  const again = await client.callTool({ name: "read_ticket", arguments: { id: 7 } }).catch((error: Error) => error);
  prove("and the agent gets no other one for that task", again instanceof Error);
  say(again instanceof Error ? again.message : "");

  await client.close();
  await verifier.close();

  step("An auditor asks what was done with the agent's tokens");
  const { body: credentials } = await admin("GET", `/v1/credentials?agent=${agentId}`);
  for (const { id, state, state_reason: reason } of credentials.items) {
    const { body: uses } = await admin("GET", `/v1/credentials/${id}/uses?page_size=100`);
    const count = (outcome: string): number =>
      uses.items.filter((use: { outcome: string }) => use.outcome === outcome).length;
    say(
      `${id.slice(0, 16)}…  ${state} because ${reason}: ${count("allowed")} calls allowed, ${count("refused")} refused`,
    );
  }
  // The SDK asks for a second token when it reads insufficient_scope, and gets one that is no wider.
  prove(
    "both are in the ledger: the first, and the one with which the SDK tried again",
    credentials.items.length === 2,
  );
  prove("no report was lost", verifier.state().uses.dropped === 0);
  http.closeAllConnections();
  await new Promise((resolve) => http.close(resolve));
}

/** One tool call without the SDK, which would ask for a new token by itself. */
async function callRead(
  url: string,
  token: string,
): Promise<{ readonly status: number; readonly code: string | undefined }> {
  const response = await fetch(url, {
    method: "POST",
    headers: {
      authorization: `Bearer ${token}`,
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
    },
    body: JSON.stringify({
      jsonrpc: "2.0",
      id: 1,
      method: "tools/call",
      params: { name: "read_ticket", arguments: { id: 7 } },
    }),
  });
  return { status: response.status, code: ((await response.json()) as { code?: string }).code };
}

function speaker(url: string, token: () => Promise<string>): Speak {
  return async (method, path, body, headers = {}) => {
    const response = await fetch(`${url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${await token()}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, body: text === "" ? undefined : JSON.parse(text) };
  };
}

async function mustAnswer(status: number, speak: Speak, ...call: Parameters<Speak>): Promise<void> {
  const answer = await speak(...call);
  if (answer.status !== status) throw new Error(`Mayfly answered ${answer.status}: ${JSON.stringify(answer.body)}`);
}

async function listen(): Promise<Server> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

let steps = 0;
function step(title: string): void {
  steps += 1;
  process.stdout.write(`\n${steps}. ${title}\n`);
}

function prove(fact: string, holds: boolean): void {
  if (!holds) throw new Error(`this does not hold: ${fact}`);
  process.stdout.write(`   ✓ ${fact}\n`);
}

function say(text: string): void {
  process.stdout.write(`     ${text}\n`);
}

await main();
process.stdout.write("\nEverything held. Nothing of it is left on this machine.\n");
