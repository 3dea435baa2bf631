import type { IncomingMessage, ServerResponse } from "node:http";
import type { TLSSocket } from "node:tls";
import type { Access, Operation } from "./access.ts";
import { AccessRefused } from "./refusal.ts";
import type { Verifier } from "./verifier.ts";

/** Express, Connect and whatever else calls handlers so. */
type Middleware<Request extends IncomingMessage> = (
  request: Request,
  response: ServerResponse,
  next: (error?: unknown) => void,
) => Promise<void>;

interface ProtectOptions<Request> {
  /** The caller's certificate in DER, where TLS ends before this process. Default: the certificate of the connection. */
  readonly certificate?: (request: Request) => Uint8Array | undefined;
}

const accesses = new WeakMap<IncomingMessage, Access>();

/** What {@link protect} found out about a request. Throws a TypeError for one that it did not let through. */
export function accessOf(request: IncomingMessage): Access {
  const access = accesses.get(request);
  if (access === undefined) throw new TypeError("protect() did not let this request through");
  return access;
}

/**
 * Middleware that lets through only calls whose token was granted what `operationOf` says the call does. Everything else is
 * answered here, as a problem document (RFC 9457) with the challenge. Each call is reported to the broker when it is answered.
 */
export function protect<Request extends IncomingMessage>(
  verifier: Verifier,
  operationOf: (request: Request) => Operation,
  options: ProtectOptions<Request> = {},
): Middleware<Request> {
  const { certificate = certificateOfConnection } = options;
  const letIn = async (request: Request, response: ServerResponse): Promise<void> => {
    const access = await verifier.verify({
      method: request.method ?? "",
      url: pathOf(request),
      headers: credentialsOf(request),
      certificate: () => certificate(request),
    });
    for (const [name, value] of Object.entries(access.responseHeaders)) response.setHeader(name, value);
    const operation = operationOf(request);
    try {
      access.require(operation);
    } catch (error) {
      access.used({ ...operation, outcome: "refused" });
      throw error;
    }
    accesses.set(request, access);
    response.once("close", () => {
      const refused = response.statusCode === 401 || response.statusCode === 403;
      access.used({ ...operation, outcome: refused ? "refused" : "allowed" });
    });
  };
  const pass = async (request: Request, response: ServerResponse): Promise<Error | "answered" | undefined> => {
    try {
      await letIn(request, response);
      return undefined;
    } catch (error) {
      // Never as it is: `next()` takes undefined, "route" and "router" for permissions to go on.
      if (!(error instanceof AccessRefused)) return error instanceof Error ? error : new TypeError("not an Error");
      answer(response, error);
      return "answered";
    }
  };
  return async (request, response, next) => {
    const outcome = await pass(request, response);
    if (outcome !== "answered") next(outcome);
  };
}

/** The path as the caller sent it, mounted routers included. Empty, and so refused, for a request line with a whole URL. */
function pathOf(request: IncomingMessage & { readonly originalUrl?: string }): string {
  const url = request.originalUrl ?? request.url ?? "";
  return url.startsWith("/") ? url : "";
}

/** The two headers that matter, with every repetition: `request.headers` keeps one Authorization of several. */
function credentialsOf({ rawHeaders }: IncomingMessage): Readonly<Record<string, readonly string[]>> {
  const headers: { authorization: string[]; dpop: string[] } = { authorization: [], dpop: [] };
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]?.toLowerCase();
    if (name === "authorization" || name === "dpop") headers[name].push(rawHeaders[index + 1] ?? "");
  }
  return headers;
}

function certificateOfConnection({ socket }: IncomingMessage): Uint8Array | undefined {
  return "getPeerCertificate" in socket ? (socket as TLSSocket).getPeerCertificate().raw : undefined;
}

function answer(response: ServerResponse, { status, code, detail, headers }: AccessRefused): void {
  response.statusCode = status;
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  response.setHeader("content-type", "application/problem+json");
  response.setHeader("cache-control", "no-store");
  response.end(JSON.stringify({ type: "about:blank", status, code, detail }));
}
