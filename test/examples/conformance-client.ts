// The MCP example's client as `@modelcontextprotocol/conformance` starts clients: the MCP server's URL is the last
// argument, who the client is stands in MCP_CONFORMANCE_CONTEXT. Exits 1 when it is refused or refuses.
import { createPrivateKey } from "node:crypto";
import { discoverOAuthProtectedResourceMetadata } from "@modelcontextprotocol/sdk/client/auth.js";
import { connect, TaskTokens } from "../../examples/mcp/client.ts";

const mcpUrl = process.argv.at(-1) as string;
const context = JSON.parse(process.env["MCP_CONFORMANCE_CONTEXT"] ?? "{}") as {
  client_id?: string;
  private_key_pem?: string;
};
const key = context.private_key_pem ?? process.env["CONFORMANCE_KEY"];
if (key === undefined) throw new Error("neither the context nor CONFORMANCE_KEY has a private key");

// An agent of ours knows its issuer. The suite makes one up for each run, so it is the one that the server names.
const { authorization_servers: [issuer] = [] } = await discoverOAuthProtectedResourceMetadata(mcpUrl);
if (issuer === undefined) throw new Error("the MCP server names no authorization server");
const agent = {
  clientId: context.client_id ?? "agent",
  privateKey: createPrivateKey(key).export({ format: "jwk" }),
  issuer,
  mcpUrl,
};
const client = await connect(
  agent,
  new TaskTokens(agent, { taskId: "tsk_1", actions: ["read"], resources: ["tickets"] }),
);
await client.listTools();
await client.close();
