import {
  discoverOAuthProtectedResourceMetadata,
  type OAuthDiscoveryState,
} from "@modelcontextprotocol/sdk/client/auth.js";
import { createPrivateKeyJwtAuth, PrivateKeyJwtProvider } from "@modelcontextprotocol/sdk/client/auth-extensions.js";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { JWK } from "jose";

/** An agent as OAuth knows it: a name that the broker has registered, and the private key that goes with it. */
export interface AgentClient {
  readonly clientId: string;
  readonly privateKey: JWK;
  /** The one authorization server that this agent shows its assertions to. */
  readonly issuer: string;
  readonly mcpUrl: string;
}

/** The part of a task that a token is wanted for. */
export interface TaskPart {
  readonly taskId: string;
  readonly actions: readonly string[];
  readonly resources: readonly string[];
}

/**
 * The SDK's client-credentials provider (`private_key_jwt`), and what it leaves to us, by its own hooks:
 * `authorization_details`, the audience of assertions, and the discovery of an authorization server without a browser.
 */
export class TaskTokens extends PrivateKeyJwtProvider {
  readonly #agent: AgentClient;
  readonly #part: TaskPart;
  // The token endpoint's URL is what some clients send, and what Mayfly refuses: an assertion is for the issuer alone.
  override readonly addClientAuthentication: ReturnType<typeof createPrivateKeyJwtAuth>;

  constructor(agent: AgentClient, part: TaskPart) {
    super({
      clientId: agent.clientId,
      privateKey: agent.privateKey,
      algorithm: "ES256",
      expectedIssuer: agent.issuer,
    });
    this.addClientAuthentication = createPrivateKeyJwtAuth({
      issuer: agent.clientId,
      subject: agent.clientId,
      privateKey: agent.privateKey,
      alg: "ES256",
      audience: agent.issuer,
      lifetimeSeconds: 60,
    });
    this.#agent = agent;
    this.#part = part;
  }

  /** What the token is for (RFC 9396). The SDK adds `resource` (RFC 8707), as the server's metadata has it. */
  override prepareTokenRequest(): URLSearchParams {
    const { taskId, actions, resources } = this.#part;
    const details = [{ type: "https://mayfly.dev/rar/task/v1", task_id: taskId, actions, resources }];
    return new URLSearchParams({
      grant_type: "client_credentials",
      authorization_details: JSON.stringify(details),
    });
  }

  /**
   * RFC 9728, then RFC 8414. Here because the SDK's own discovery (1.32) wants an `authorization_endpoint` of every
   * authorization server; RFC 8414 §2 wants it only where there are browsers. Rejects when the MCP server names another
   * issuer than ours, or the metadata is of another.
   */
  async discoveryState(): Promise<OAuthDiscoveryState> {
    const { issuer, mcpUrl } = this.#agent;
    const resourceMetadata = await discoverOAuthProtectedResourceMetadata(mcpUrl);
    if (resourceMetadata.authorization_servers?.includes(issuer) !== true)
      throw new Error("the MCP server takes no tokens of our issuer");
    const { origin, pathname } = new URL(issuer);
    const response = await fetch(`${origin}/.well-known/oauth-authorization-server${pathname}`, { redirect: "error" });
    const metadata = (await response.json()) as NonNullable<OAuthDiscoveryState["authorizationServerMetadata"]>;
    if (metadata.issuer !== issuer) throw new Error("the metadata is of another issuer");
    return { authorizationServerUrl: issuer, resourceMetadata, authorizationServerMetadata: metadata };
  }
}

/** Connects as this agent. The first request is answered 401, and the SDK gets the token by itself. */
export async function connect(agent: AgentClient, tokens: TaskTokens): Promise<Client> {
  const client = new Client({ name: agent.clientId, version: "1.0.0" });
  const transport = new StreamableHTTPClientTransport(new URL(agent.mcpUrl), { authProvider: tokens });
  await client.connect(transport);
  return client;
}
