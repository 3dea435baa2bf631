import { Agent } from "undici";
import { MayflyError } from "../lib/errors.ts";
import { stopSignal, unlessAborted } from "./turns.ts";

/** `fetch` to one far side, as the client libraries take it (`fetch`, `customFetch`, a transport around it). */
export type TargetFetch = (url: string | URL, init?: TargetRequest) => Promise<Response>;

/** What of `RequestInit` is honoured. The body is text: nothing here streams. */
export interface TargetRequest {
  readonly method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "LIST";
  readonly headers?: Readonly<Record<string, string>> | Headers;
  readonly body?: string | URLSearchParams;
  readonly signal?: AbortSignal | null;
}

/** Connections to one far side, for one sort of work. Mints and revokes have one each, so that neither holds up the other. */
export interface TargetConnections extends AsyncDisposable {
  readonly fetch: TargetFetch;
}

interface TargetAddress {
  /** Scheme, host and port that every request must have. A library that follows a link elsewhere is refused. */
  readonly origin: string;
  /** PEM. Absent: the well-known authorities. */
  readonly ca?: string | undefined;
  /** What the far side is called in errors. */
  readonly called: string;
  /** Bytes that one answer may have. Default: 256 KiB. */
  readonly maxBytes?: number;
}

const CONNECT_MS = 2_000;
const ANSWER_WITHIN_MS = 8_000;
const MAX_BYTES = 256 * 1024;
const CONNECTIONS = 8;

/**
 * Opens the one way in which issuers speak HTTP (reliability H1 to H3): to this origin alone, no redirects, no proxy, no
 * compression, an answer of at most `maxBytes` within 8 s. An answer of any status resolves, with its body read; everything else
 * rejects as `target_unavailable` (or `target_rejected` for a certificate), without what was sent.
 */
export function openTargetConnections(address: TargetAddress): TargetConnections {
  const { origin, ca, called, maxBytes = MAX_BYTES } = address;
  const agent = new Agent({
    connect: { timeout: CONNECT_MS, ...(ca === undefined ? {} : { ca }) },
    connections: CONNECTIONS,
    pipelining: 1,
    headersTimeout: ANSWER_WITHIN_MS,
    bodyTimeout: ANSWER_WITHIN_MS,
    maxHeaderSize: 16 * 1024,
  });
  return {
    async fetch(target, init = {}) {
      const url = new URL(target);
      if (url.origin !== origin || url.username !== "" || url.password !== "")
        throw new MayflyError("internal", `a request for ${called} was to go somewhere else`);
      using deadline = stopSignal(init.signal ?? new AbortController().signal, ANSWER_WITHIN_MS);
      const { signal } = deadline;
      try {
        // Undici looks at a signal once it is connected; who waits here looks at once.
        return await unlessAborted(signal, ask(agent, url, init, signal, called, maxBytes));
      } catch (error) {
        throw toMayflyError(error, signal, called);
      }
    },
    [Symbol.asyncDispose]: () => agent.destroy(),
  };
}

async function ask(
  agent: Agent,
  url: URL,
  init: TargetRequest,
  signal: AbortSignal,
  called: string,
  maxBytes: number,
): Promise<Response> {
  signal.throwIfAborted();
  const headers = new Headers(init.headers);
  headers.set("accept-encoding", "identity");
  headers.set("user-agent", "mayfly");
  const body = init.body instanceof URLSearchParams ? init.body.toString() : init.body;
  if (init.body instanceof URLSearchParams && !headers.has("content-type"))
    headers.set("content-type", "application/x-www-form-urlencoded");
  const answer = await agent.request({
    origin: url.origin,
    path: `${url.pathname}${url.search}`,
    method: init.method ?? "GET",
    headers: Object.fromEntries(headers),
    body: body ?? null,
    signal,
  });
  try {
    const { statusCode: status } = answer;
    if (status >= 300 && status < 400)
      throw new MayflyError("target_rejected", `${called} redirects (${status}); its URL must be where it answers`);
    if ((answer.headers["content-encoding"] ?? "identity") !== "identity")
      throw new MayflyError("target_unavailable", `${called} sent a compressed answer`);
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of answer.body as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > maxBytes) throw new MayflyError("target_unavailable", `${called} sent more than ${maxBytes} bytes`);
      chunks.push(chunk);
    }
    const told = new Headers();
    for (const [name, value] of Object.entries(answer.headers))
      for (const one of value === undefined ? [] : [value].flat()) told.append(name, one);
    const empty = status === 204 || status === 205 || status < 200;
    return new Response(empty ? null : Buffer.concat(chunks), { status, headers: told });
  } finally {
    // Ends what is still coming. An answer that was read has nothing left to end.
    answer.body.on("error", () => undefined).destroy();
  }
}

// No cause with a foreign error: some carry what was sent.
function toMayflyError(error: unknown, signal: AbortSignal, called: string): MayflyError {
  if (error instanceof MayflyError) return error;
  if (signal.aborted) return new MayflyError("target_unavailable", `${called} was given up on before it answered`);
  const code = typeof error === "object" && error !== null && "code" in error ? String(error.code) : "no code";
  return /CERT|TLS|SSL|ISSUER|SELF_SIGNED/.test(code)
    ? new MayflyError("target_rejected", `the certificate of ${called} was not accepted (${code})`)
    : new MayflyError("target_unavailable", `${called} did not answer (${code})`);
}

/**
 * What an answer that is not the wanted one means: `target_unavailable` when trying again may help (429 with its Retry-After,
 * 408, 5xx), else `target_rejected`. `detail` must hold nothing that the far side sent.
 */
export function refusalOf(response: Response, called: string, detail = ""): MayflyError {
  const { status } = response;
  const passing = status === 408 || status === 429 || status >= 500;
  const seconds = Number(response.headers.get("retry-after"));
  return new MayflyError(
    passing ? "target_unavailable" : "target_rejected",
    `${called} answered ${status}${detail === "" ? "" : `: ${detail}`}`,
    passing && Number.isInteger(seconds) && seconds > 0 ? { retryAfterSeconds: Math.min(seconds, 900) } : {},
  );
}
