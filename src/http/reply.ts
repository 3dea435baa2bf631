import { type IncomingMessage, validateHeaderName, validateHeaderValue } from "node:http";
import type { Answer } from "./answer.ts";
import type { Endpoint, Reply } from "./endpoint.ts";
import { noneMatchHas } from "./headers.ts";

const JSON_REPLY = "application/json; charset=utf-8";

/** A handler's reply as it leaves: serialised, with its entity tag, and 304 where the caller already has it. */
export function replyAnswer(endpoint: Endpoint, reply: Reply, req: IncomingMessage): Answer {
  const headers: Record<string, string> = {};
  if (reply.body !== undefined) headers["content-type"] = endpoint.mediaType ?? JSON_REPLY;
  if (reply.etag !== undefined) headers["etag"] = `"${reply.etag}"`;
  if (reply.headers !== undefined) {
    for (const [name, value] of Object.entries(reply.headers)) {
      // Here, because once writing has begun a line break in a value could no longer become a clean 500.
      validateHeaderName(name);
      validateHeaderValue(name, value);
      headers[name.toLowerCase()] = value;
    }
  }
  const etag = headers["etag"];
  if (etag !== undefined && reply.status === 200 && endpoint.method === "get") {
    if (noneMatchHas(req.headers["if-none-match"], etag)) return { status: 304, headers, body: "" };
  }
  if (endpoint.stream) return { status: reply.status, headers, body: "", stream: reply.body as AsyncIterable<string> };
  return { status: reply.status, headers, body: bodyOf(endpoint, reply, headers["content-type"] ?? "") };
}

function bodyOf(endpoint: Endpoint, { body }: Reply, mediaType: string): string | Uint8Array {
  if (body === undefined) return "";
  if (mediaType.includes("json")) return JSON.stringify(body);
  if (typeof body === "string" || body instanceof Uint8Array) return body;
  throw new TypeError(`${endpoint.path} answers ${mediaType}, so its body must be text or bytes`);
}

/** Throws unless the endpoint declares this status and the body, as JSON, is what it declares for it. */
export function assertDeclared(endpoint: Endpoint, reply: Reply): void {
  const what = `${endpoint.method} ${endpoint.path} answered ${reply.status}`;
  const schema = endpoint.replies[reply.status];
  if (schema === undefined) throw new TypeError(`${what}, which it does not declare`);
  // Nobody has it yet.
  if (endpoint.stream) return;
  if (schema === null) {
    if (reply.body !== undefined) throw new TypeError(`${what} with a body, and declares none`);
    return;
  }
  const isJson = endpoint.mediaType === undefined || endpoint.mediaType.includes("json");
  const wire: unknown = isJson && reply.body !== undefined ? JSON.parse(JSON.stringify(reply.body)) : reply.body;
  const result = schema.safeParse(wire);
  if (result.success) return;
  const places = result.error.issues.map((issue) => `/${issue.path.join("/")}: ${issue.message}`);
  throw new TypeError(`${what} with a body that differs from its schema at ${places.join("; ")}`);
}
