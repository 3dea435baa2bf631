import { BrokerProblem } from "./problem.ts";

/** How the API authenticates to the broker: the value of the Authorization header, made anew for every request. */
export type Authorization = () => string | Promise<string>;

const TIMEOUT_MS = 5000;

/** A request to the broker. Redirects are refused: the token that it carries is for the issuer's own origin. */
export interface BrokerRequest {
  readonly accept?: string;
  readonly authorization?: Authorization;
  readonly headers?: Readonly<Record<string, string>>;
  /** With a body it is a POST of JSON. */
  readonly body?: string;
  /** Ends the whole exchange. */
  readonly signal: AbortSignal;
}

/** Sends a request and gives the answer, which must be 2xx, with its body unread. Throws {@link BrokerProblem}, or what fetch throws. */
export async function ask(url: string, request: BrokerRequest): Promise<Response> {
  const { accept, authorization, headers, body, signal } = request;
  const response = await fetch(url, {
    method: body === undefined ? "GET" : "POST",
    redirect: "manual",
    headers: {
      ...headers,
      ...(accept === undefined ? {} : { accept }),
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...(authorization === undefined ? {} : { authorization: await headerOf(authorization, signal) }),
    },
    ...(body === undefined ? {} : { body }),
    signal,
  });
  if (response.ok) return response;
  await response.body?.cancel();
  throw new BrokerProblem(`the issuer answered with status ${response.status}`, response.status);
}

/** The text of a small document of one of these media types. Throws as {@link ask} does. */
export async function fetchText(
  url: string,
  {
    maxBytes,
    types,
    headers = {},
  }: {
    readonly maxBytes: number;
    readonly types: readonly string[];
    readonly headers?: Readonly<Record<string, string>>;
  },
): Promise<string> {
  const response = await ask(url, { accept: types.join(", "), headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
  try {
    const type = response.headers.get("content-type")?.split(";", 1)[0]?.trim().toLowerCase() ?? "";
    if (!types.includes(type)) throw new BrokerProblem("the issuer's answer has another content type");
    return await textOf(response, maxBytes);
  } finally {
    // Whatever was not read is not wanted; of a body that was read nothing is left.
    if (!response.bodyUsed) await response.body?.cancel();
  }
}

/** Posts JSON, and reads nothing of the answer. Throws as {@link ask} does. */
export async function post(url: string, request: BrokerRequest & { readonly body: string }): Promise<void> {
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  const response = await ask(url, { ...request, signal: AbortSignal.any([request.signal, limit]) });
  await response.body?.cancel();
}

async function textOf(response: Response, maxBytes: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength;
    if (size > maxBytes) throw new BrokerProblem(`the issuer's answer has more than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Buffer.concat(chunks));
  } catch {
    throw new BrokerProblem("the issuer's answer is not UTF-8");
  }
}

async function headerOf(authorization: Authorization, signal: AbortSignal): Promise<string> {
  const value = await beforeAbort(signal, async () => await authorization());
  // Looked at here, because fetch would quote a bad one in its error.
  if (typeof value !== "string" || !/^[\x21-\x7e][\x20-\x7e]{0,16383}$/.test(value))
    throw new BrokerProblem("authorization() must give the value of an Authorization header");
  return value;
}

/** What the API's own function gives, unless it fails or takes longer than the request may. */
async function beforeAbort(signal: AbortSignal, work: () => Promise<unknown>): Promise<unknown> {
  let stop = (): void => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(new BrokerProblem("authorization() took too long"));
    signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([work(), aborted]);
  } catch (error) {
    throw error instanceof BrokerProblem ? error : new BrokerProblem("authorization() failed");
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
