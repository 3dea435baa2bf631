import { Server as McpServer } from "@modelcontextprotocol/sdk/server/index.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { CallToolRequestSchema, ListToolsRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import express from "express";
import { type Access, AccessRefused, type Operation, serveMetadata, type Verifier } from "mayfly/verify";

/** One tool, and what a task must have been granted for it: an action and a resource of the registry. */
interface Tool {
  readonly description: string;
  readonly needs: Operation;
  run(id: number): string;
}

const tickets = new Map([
  [7, "printer on fire"],
  [8, "coffee machine out of beans"],
]);

const tools: Readonly<Record<string, Tool>> = {
  read_ticket: {
    description: "The title of a ticket",
    needs: { action: "read", resource: "support-tickets" },
    run: (id) => tickets.get(id) ?? "there is no such ticket",
  },
  close_ticket: {
    description: "Closes a ticket",
    needs: { action: "close", resource: "support-tickets" },
    run: (id) => (tickets.delete(id) ? "closed" : "there is no such ticket"),
  },
};

const inputSchema = { type: "object" as const, properties: { id: { type: "integer" } }, required: ["id"] };

/**
 * An MCP server over Streamable HTTP, for tokens of Mayfly alone. It keeps no session: each request stands on its own
 * token, so a token that was revoked ends with the request before. Everything that it knows of OAuth is `mayfly/verify`.
 */
export function ticketServer(verifier: Verifier): express.Express {
  const app = express();
  app.disable("x-powered-by");
  app.use(serveMetadata(verifier));
  // Who calls is known before anything is read of what they sent.
  app.use("/mcp", async (request, response, next) => {
    try {
      response.locals["access"] = await verifier.verify({
        method: request.method,
        url: request.originalUrl,
        headers: request.headersDistinct,
      });
    } catch (error) {
      refuse(response, error);
      return;
    }
    next();
  });
  app.post("/mcp", express.json({ limit: "64kb" }), async (request, response) => {
    const access = response.locals["access"] as Access;
    if (!mayCall(access, request.body, response)) return;
    const server = serverFor(access);
    // No session id: the transport is for this request alone.
    const transport = new StreamableHTTPServerTransport({ enableJsonResponse: true });
    response.once("close", () => void server.close());
    await server.connect(transport);
    await transport.handleRequest(request, response, request.body);
  });
  app.all("/mcp", (_request, response) => void response.status(405).set("allow", "POST").end());
  return app;
}

/** Whether a message asks for nothing, or for a tool that the token allows. Answers 403 otherwise, and reports it. */
function mayCall(access: Access, body: unknown, response: express.Response): boolean {
  // One message per request, as MCP has it since 2025-06-18: none hides in a batch.
  const message = Array.isArray(body) || typeof body !== "object" || body === null ? undefined : body;
  if (message === undefined) {
    response
      .status(400)
      .json({ jsonrpc: "2.0", id: null, error: { code: -32600, message: "one message, not a batch" } });
    return false;
  }
  const tool = toolOf(message);
  if (tool === undefined) return true;
  try {
    access.require(tool.needs);
    return true;
  } catch (error) {
    access.used({ ...tool.needs, outcome: "refused" });
    refuse(response, error);
    return false;
  }
}

function toolOf(message: { readonly method?: unknown; readonly params?: unknown }): Tool | undefined {
  const name = message.method === "tools/call" ? (message.params as { name?: unknown } | undefined)?.name : undefined;
  return typeof name === "string" && Object.hasOwn(tools, name) ? tools[name] : undefined;
}

/** An MCP server that has only the tools that this token's task was granted. */
function serverFor(access: Access): McpServer {
  const granted = Object.entries(tools).filter(([, { needs }]) => allows(access, needs));
  const server = new McpServer({ name: "tickets", version: "1.0.0" }, { capabilities: { tools: {} } });
  server.setRequestHandler(ListToolsRequestSchema, () => ({
    tools: granted.map(([name, { description }]) => ({ name, description, inputSchema })),
  }));
  server.setRequestHandler(CallToolRequestSchema, ({ params }) => {
    const [, tool] = granted.find(([name]) => name === params.name) ?? [];
    if (tool === undefined) return { isError: true, content: [{ type: "text", text: "there is no such tool" }] };
    const text = tool.run(Number(params.arguments?.["id"]));
    access.used({ ...tool.needs, outcome: "allowed" });
    return { content: [{ type: "text", text }] };
  });
  return server;
}

function allows(access: Access, operation: Operation): boolean {
  try {
    access.require(operation);
    return true;
  } catch (error) {
    if (error instanceof AccessRefused) return false;
    throw error;
  }
}

/** The refusal as the kit words it: the status, the challenge, a stable code. */
function refuse(response: express.Response, error: unknown): void {
  if (!(error instanceof AccessRefused)) throw error;
  const { status, headers, code, detail } = error;
  response.status(status).set(headers).type("application/problem+json").json({ status, code, detail });
}
