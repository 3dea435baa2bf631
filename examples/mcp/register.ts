import type { JWK } from "jose";

/** Sends one request to Mayfly's API as one person, and gives what was answered. */
export type Speak = (
  method: string,
  path: string,
  body?: unknown,
  headers?: Record<string, string>,
  // biome-ignore lint/suspicious/noExplicitAny: answers are read by name
) => Promise<{ readonly status: number; readonly body: any }>;

/** Who is at work in the example, and with which public key. */
export interface Cast {
  readonly admin: Speak;
  /** Another person than the admin: who proposes a purpose never approves it. */
  readonly approver: Speak;
  readonly orchestrator: Speak;
  readonly mcpUrl: string;
  /** The agent that calls tools, and the MCP server itself. The names are their issuers, subjects and client ids. */
  readonly agent: { readonly clientId: string; readonly publicKey: JWK };
  readonly tool: { readonly clientId: string; readonly publicKey: JWK };
}

/** What was registered. */
export interface Registered {
  readonly agentId: string;
  readonly purposeId: string;
  /** Opens a task of the agent, as the orchestrator; answers its id. */
  openTask(): Promise<string>;
  endTask(id: string): Promise<void>;
}

/** Registers the MCP server as a target, the agent, what it may do, and why. Rejects at the first refusal. */
export async function register({ admin, approver, orchestrator, mcpUrl, agent, tool }: Cast): Promise<Registered> {
  const owner = await done(admin("POST", "/v1/owners", { kind: "human", name: "olga" }));
  const resource = await done(
    admin("POST", "/v1/resources", {
      name: "support-tickets",
      kind: "dataset",
      owner_id: owner.id,
      classification: "internal",
      environment: "staging",
      risk: "low",
      operations: { read: "read", close: "write" },
    }),
  );
  // `audience` is the MCP server's URL: what RFC 9728 says its resource is, and what its tokens are for.
  const target = await done(
    admin("POST", "/v1/targets", {
      name: "ticket-mcp",
      issuer: "jwt",
      owner_id: owner.id,
      max_ttl_seconds: 300,
      config: { audience: mcpUrl },
      resources: [{ resource: resource.id, access: { read: {}, write: {} } }],
    }),
  );
  // MCP's SDK sends bearer tokens. Tokens of Mayfly are bound to a key by default, so the admin makes an exception for
  // this agent, for five minutes at most.
  const agentId = await anAgent(admin, owner.id, { name: "triage-bot", kind: "agent", bearer_ttl_seconds: 300 }, agent);
  const toolId = await anAgent(admin, owner.id, { name: "ticket-mcp", kind: "connector" }, tool);
  // This is what lets the MCP server hear of revocations, and report uses.
  await done(admin("POST", "/v1/relationships", { subject: toolId, relation: "serves", object: target.id }));
  const inAMonth = new Date(Date.now() + 30 * 86_400_000).toISOString();
  const purpose = await done(
    admin("POST", "/v1/purposes", {
      agent_id: agentId,
      name: "triage",
      description: "Read new tickets and suggest who should look at them",
      actions: ["read", "close"],
      resource_ids: [resource.id],
      data_classes: ["internal"],
      environments: ["staging"],
      max_ttl_seconds: 300,
      reviewer_id: owner.id,
      review_by: inAMonth,
      expires_at: inAMonth,
    }),
  );
  await done(approver("POST", `/v1/purposes/${purpose.id}/approve`, undefined, { "if-match": `"${purpose.version}"` }));
  return {
    agentId,
    purposeId: purpose.id,
    async openTask() {
      const task = await done(
        orchestrator("POST", "/v1/tasks", {
          agent_id: agentId,
          purpose_id: purpose.id,
          objective: "triage ticket 7",
          initiated_by: { kind: "human", id: "carol" },
          deadline: new Date(Date.now() + 600_000).toISOString(),
        }),
      );
      return task.id;
    },
    async endTask(id) {
      await done(orchestrator("POST", `/v1/tasks/${id}/end`, { outcome: "completed" }));
    },
  };
}

/** An agent, active, that proves itself with one key. */
async function anAgent(
  admin: Speak,
  ownerId: string,
  what: { readonly name: string; readonly kind: string; readonly bearer_ttl_seconds?: number },
  { clientId, publicKey }: Cast["agent"],
): Promise<string> {
  const source = await done(
    admin("POST", "/v1/trust-sources", {
      name: clientId,
      kind: "key_set",
      issuer: clientId,
      jwks: { keys: [publicKey] },
      algorithms: ["ES256"],
    }),
  );
  const agent = await done(admin("POST", "/v1/agents", { ...what, owner_id: ownerId, environment: "staging" }));
  await done(admin("POST", `/v1/agents/${agent.id}/state`, { state: "active" }));
  await done(
    admin("POST", "/v1/identities", {
      trust_source_id: source.id,
      agent_id: agent.id,
      anchor_claim: "sub",
      anchor_value: clientId,
    }),
  );
  return agent.id;
}

async function done(answer: ReturnType<Speak>): Promise<{ readonly id: string; readonly version: number }> {
  const { status, body } = await answer;
  if (status >= 300) throw new Error(`Mayfly answered ${status}: ${JSON.stringify(body)}`);
  return body;
}
