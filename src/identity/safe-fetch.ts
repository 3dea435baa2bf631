import { type LookupAddress, lookup as systemLookup } from "node:dns";
import type { LookupFunction, Socket } from "node:net";
import { Agent, buildConnector, type Dispatcher, request } from "undici";
import { parseStrictJson } from "../lib/strict-json.ts";
import { type FetchPolicy, isAllowedAddress, parseFetchUrl } from "./fetch-url.ts";

/** Why a document was not fetched. Stable; for operators and events. */
export type SafeFetchProblem =
  | "url_not_allowed"
  | "address_not_allowed"
  | "not_reachable"
  | "timed_out"
  | "redirect_refused"
  | "status_not_ok"
  | "encoding_refused"
  | "content_type_refused"
  | "body_too_large"
  | "body_not_json";

/** A fetch that gave nothing. The message is for operators: it holds nothing of what the far side sent. */
export class SafeFetchError extends Error {
  readonly problem: SafeFetchProblem;

  constructor(problem: SafeFetchProblem, message: string, options?: { readonly cause?: unknown }) {
    super(message, options);
    this.name = "SafeFetchError";
    this.problem = problem;
  }
}

/** What came back. `maxAgeSeconds` is Cache-Control's, 0 for no-store and no-cache, absent when it says nothing. */
export type FetchedJson =
  | { readonly status: "fresh"; readonly document: unknown; readonly etag?: string; readonly maxAgeSeconds?: number }
  | { readonly status: "not_modified"; readonly maxAgeSeconds?: number };

/** Fetches one JSON document by GET. With `etag`, the answer may be `not_modified`. Rejects with {@link SafeFetchError}. */
export type SafeFetch = (
  url: string,
  options?: { readonly etag?: string; readonly maxBytes?: number },
) => Promise<FetchedJson>;

/** Resolves a host name to every address it has. Injected by tests. */
export type ResolveHost = (
  hostname: string,
  done: (error: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void,
) => void;

export interface SafeFetchOptions extends FetchPolicy {
  readonly resolve?: ResolveHost;
  /** For the whole exchange, name resolution included. */
  readonly timeoutMs?: number;
  /** PEM certificates trusted instead of the system's, for an issuer with a private CA. */
  readonly ca?: string;
}

const DEFAULT_BYTES = 64 * 1024;
const MAX_BYTES = 512 * 1024;
const TIMEOUT_MS = 5000;
const MAX_HEADER_BYTES = 16 * 1024;
/** What a body of so many bytes may take on the wire: its framing and the headers besides. */
const wireBytes = (maxBytes: number): number => 2 * (maxBytes + MAX_HEADER_BYTES);
const documentLimits = { maxDepth: 10, maxMembers: 5000 };

/**
 * Makes the one way in which Mayfly fetches a URL that somebody configured (SSRF guard, standards §15): https, no
 * redirects, no proxy, no cookies or credentials, one connection that is never reused, 5 s in all, few bytes, and of
 * them a small body of strict JSON with a JSON content type and without compression. A host name is resolved once, every address of the
 * answer must be public, and the connection is made to those very addresses, so rebinding has nothing to rebind.
 */
export function createSafeFetch(options: SafeFetchOptions): SafeFetch {
  const { timeoutMs = TIMEOUT_MS } = options;
  return async (text, { etag, maxBytes: wanted = DEFAULT_BYTES } = {}) => {
    const maxBytes = Math.min(wanted, MAX_BYTES);
    const url = parseFetchUrl(text, options);
    if (typeof url === "string") throw new SafeFetchError("url_not_allowed", url);
    const agent = new Agent({
      connect: guardedConnector(url, options, wireBytes(maxBytes)),
      pipelining: 0,
      maxHeaderSize: MAX_HEADER_BYTES,
    });
    const late = new SafeFetchError("timed_out", "the answer took too long");
    let isLate = false;
    // Not an AbortSignal: undici 7 looks at one only once it is connected, so a silent host would hang for ever.
    const timer = setTimeout(() => {
      isLate = true;
      void agent.destroy(late);
    }, timeoutMs);
    try {
      const response = await request(url, {
        dispatcher: agent,
        method: "GET",
        headers: {
          accept: "application/json, application/jwk-set+json",
          "accept-encoding": "identity",
          ...(etag === undefined ? {} : { "if-none-match": etag }),
        },
      });
      return await readJson(response, etag !== undefined, maxBytes);
    } catch (error) {
      throw isLate ? late : toSafeFetchError(error);
    } finally {
      clearTimeout(timer);
      // Also ends an endless body at once.
      await agent.destroy();
    }
  };
}

function guardedConnector(url: URL, options: SafeFetchOptions, maxBytes: number): buildConnector.connector {
  const { resolve = resolveBySystem, timeoutMs = TIMEOUT_MS } = options;
  const lookup: LookupFunction = (hostname, { all }, done) => {
    resolve(hostname, (error, addresses) => {
      if (error !== null) return done(error, []);
      const [first] = addresses;
      // One bad address spoils the answer: a mixed one is how rebinding looks.
      if (first === undefined || !addresses.every(({ address }) => isAllowedAddress(address, url, options))) {
        return done(addressRefused(), []);
      }
      return all === true ? done(null, addresses) : done(null, first.address, first.family);
    });
  };
  const connect = buildConnector({
    lookup,
    timeout: timeoutMs,
    maxCachedSessions: 0,
    ...(options.ca === undefined ? {} : { ca: options.ca }),
  });
  return (target, done) => {
    connect(target, (...result) => {
      const [error, socket] = result;
      if (error !== null) return done(error, null);
      // An address literal in the URL is never looked up; whatever the way here, this is the peer that counts.
      if (!isAllowedAddress(socket.remoteAddress ?? "", url, options)) {
        socket.destroy();
        return done(addressRefused(), null);
      }
      done(null, socket);
      // After undici has begun to listen, which a listener of ours must not do for it.
      setImmediate(() => socket.on("readable", () => endBeyond(maxBytes, socket)));
    });
  };
}

/** Chunk extensions and interim answers have no end that undici knows: it would read them at full speed until it is late. */
function endBeyond(maxBytes: number, socket: Socket): void {
  if (socket.bytesRead > maxBytes) socket.destroy(new SafeFetchError("body_too_large", "the answer is too large"));
}

function addressRefused(): SafeFetchError {
  return new SafeFetchError("address_not_allowed", "the host is not at a public address");
}

async function readJson(
  response: Dispatcher.ResponseData,
  conditional: boolean,
  maxBytes: number,
): Promise<FetchedJson> {
  const { statusCode, headers, body } = response;
  const maxAgeSeconds = maxAgeOf(header(headers["cache-control"]));
  const freshness = maxAgeSeconds === undefined ? {} : { maxAgeSeconds };
  if (statusCode === 304 && conditional) return { status: "not_modified", ...freshness };
  if (statusCode >= 300 && statusCode < 400) throw new SafeFetchError("redirect_refused", "redirects are not followed");
  if (statusCode !== 200) throw new SafeFetchError("status_not_ok", `the answer had status ${statusCode}`);
  if ((header(headers["content-encoding"]) ?? "identity").toLowerCase() !== "identity") {
    throw new SafeFetchError("encoding_refused", "a compressed answer is not accepted: it was not asked for");
  }
  if (!isJson(header(headers["content-type"]) ?? "")) {
    throw new SafeFetchError("content_type_refused", "the answer's content type is not JSON");
  }
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxBytes) throw new SafeFetchError("body_too_large", `the answer is larger than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  const etag = header(headers.etag);
  return {
    status: "fresh",
    document: parseBody(Buffer.concat(chunks)),
    ...freshness,
    ...(etag && etag.length <= 256 ? { etag } : {}),
  };
}

function parseBody(bytes: Buffer): unknown {
  try {
    return parseStrictJson(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes), documentLimits);
  } catch {
    throw new SafeFetchError("body_not_json", "the answer is not strict JSON in UTF-8");
  }
}

function isJson(contentType: string): boolean {
  return /^application\/(json|[a-z0-9.-]{1,100}\+json)\s*(;\s*charset="?utf-8"?\s*)?$/i.test(contentType);
}

/** A header that came twice is none. */
function header(value: string | string[] | undefined): string | undefined {
  return typeof value === "string" ? value : undefined;
}

function maxAgeOf(cacheControl: string | undefined): number | undefined {
  if (cacheControl === undefined) return undefined;
  if (/(^|[\s,])no-(store|cache)($|[\s,=])/i.test(cacheControl)) return 0;
  const seconds = /(?:^|[\s,])max-age=([0-9]{1,9})(?:$|[\s,])/i.exec(cacheControl)?.[1];
  return seconds === undefined ? undefined : Number(seconds);
}

function resolveBySystem(hostname: string, done: Parameters<ResolveHost>[1]): void {
  systemLookup(hostname, { all: true }, done);
}

function toSafeFetchError(error: unknown): SafeFetchError {
  if (error instanceof SafeFetchError) return error;
  return new SafeFetchError("not_reachable", "the host could not be resolved, reached or verified", { cause: error });
}
