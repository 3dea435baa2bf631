import type { IncomingMessage, ServerResponse } from "node:http";
import { proofAlgorithms } from "../identity/dpop-proof.ts";
import { TASK_DETAILS } from "../lib/access-token.ts";

/** What an API says of itself to those who want a token for it (RFC 9728 §2), and where it says so. */
export interface ResourceMetadata {
  /** The absolute URL of the document; challenges name it as `resource_metadata` (RFC 9728 §5.1). */
  readonly url: string;
  readonly document: Readonly<Record<string, unknown>>;
}

const WELL_KNOWN = "/.well-known/oauth-protected-resource";
const MAX_AGE_SECONDS = 300;

/**
 * Where RFC 9728 §3.1 puts the metadata of a resource: the well-known part between host and path, the query kept.
 * Undefined when the resource is no URL of the web, and so has no such place. Plain http for loopback alone.
 */
export function metadataUrl(resource: string): string | undefined {
  const [, origin, rest = ""] = /^(https?:\/\/[^/?#]+)([^#]*)$/.exec(resource) ?? [];
  if (origin === undefined || !URL.canParse(resource)) return undefined;
  const { protocol, hostname, username } = new URL(resource);
  const loopback = ["localhost", "127.0.0.1", "[::1]"].includes(hostname);
  if (username !== "" || (protocol !== "https:" && !loopback)) return undefined;
  // Only the slash that is the whole path goes: any other is part of the name.
  return `${origin}${WELL_KNOWN}${rest.replace(/^\/(?=\?|$)/, "")}`;
}

/**
 * The metadata of the API that these options are of. It says what the kit does and nothing that it does not: no scopes,
 * because `authorization_details` alone grants. `dpop_bound_access_tokens_required` is said unless callers may come
 * with a certificate or a bearer token instead.
 */
export function resourceMetadataOf(options: {
  readonly issuer: string;
  readonly audience: string;
  readonly allowBearer: boolean;
  readonly clientCertificates: boolean;
  readonly resourceMetadata?: string;
}): ResourceMetadata | undefined {
  const { issuer, audience, allowBearer, clientCertificates, resourceMetadata: url } = options;
  if (url === undefined) return undefined;
  return {
    url,
    document: {
      resource: audience,
      authorization_servers: [issuer],
      bearer_methods_supported: ["header"],
      dpop_signing_alg_values_supported: proofAlgorithms,
      dpop_bound_access_tokens_required: !allowBearer && !clientCertificates,
      tls_client_certificate_bound_access_tokens: clientCertificates,
      authorization_details_types_supported: [TASK_DETAILS],
    },
  };
}

/**
 * Middleware that answers a GET of the metadata's own path, whoever asks, and hands everything else on. For Express,
 * Connect and `node:http`; it stands before `protect`, because whoever asks has no token yet.
 */
export function serveMetadata({
  resourceMetadata: metadata,
}: {
  readonly resourceMetadata: ResourceMetadata | undefined;
}): (request: IncomingMessage, response: ServerResponse, next: () => void) => void {
  if (metadata === undefined) return (_request, _response, next) => next();
  const { pathname, search } = new URL(metadata.url);
  const body = JSON.stringify(metadata.document);
  return (request: IncomingMessage & { readonly originalUrl?: string }, response, next) => {
    const url = request.originalUrl ?? request.url ?? "";
    const isAsked = search === "" ? url.split("?", 1)[0] === pathname : url === `${pathname}${search}`;
    if (!isAsked || (request.method !== "GET" && request.method !== "HEAD")) return next();
    response.statusCode = 200;
    response.setHeader("content-type", "application/json");
    response.setHeader("cache-control", `public, max-age=${MAX_AGE_SECONDS}`);
    response.setHeader("content-length", Buffer.byteLength(body));
    response.end(request.method === "HEAD" ? undefined : body);
  };
}
