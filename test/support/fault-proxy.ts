import { once } from "node:events";
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer, request as httpsRequest } from "node:https";
import type { AddressInfo } from "node:net";
import { certify, names } from "./certificates.ts";

/** What came back from the far side, for the faults that let the request take effect. */
interface Came {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Buffer;
}

/**
 * What happens to a request. `forward`: it reaches the far side and takes effect first. `means`: what an issuer has to make of it;
 * `either` where nobody can tell whether trying again helps. `waits`: nothing ends it but the caller's patience.
 */
export interface Fault {
  readonly name: string;
  readonly forward: boolean;
  readonly means: "unavailable" | "rejected" | "either";
  readonly waits?: true;
  /** Nothing reached the far side, and the answer is one that it could have given to a revoke that worked. */
  readonly looksGood?: true;
  reply(response: ServerResponse, came: Came, elsewhere: string): void;
}

const html = { "content-type": "text/html" };
const plainly = (status: number, headers: Record<string, string> = html, body = "<html>a proxy's page</html>") => ({
  forward: false,
  reply: (response: ServerResponse) => void response.writeHead(status, headers).end(body),
});
/** A good status, and what the far side would never say. */
const instead = (body: (came: Came) => string | Buffer) => ({
  forward: true,
  reply: (response: ServerResponse, came: Came) =>
    void response
      .writeHead(200, { "content-type": String(came.headers["content-type"] ?? "application/json") })
      .end(body(came)),
});
const isXml = ({ headers }: Came): boolean => String(headers["content-type"]).includes("xml");
const DEPTH = 60_000;

/** Every fault of a request (reliability F4). */
export const requestFaults: readonly Fault[] = [
  { name: "500", means: "unavailable", ...plainly(500) },
  { name: "503", means: "unavailable", ...plainly(503) },
  { name: "429 with Retry-After", means: "unavailable", ...plainly(429, { ...html, "retry-after": "7" }) },
  { name: "500 after the effect", means: "unavailable", ...plainly(500), forward: true },
  { name: "a hang", means: "unavailable", forward: false, waits: true, reply: () => undefined },
  { name: "a hang after the effect", means: "unavailable", forward: true, waits: true, reply: () => undefined },
  { name: "a slow drip", means: "unavailable", forward: true, waits: true, reply: drip },
  { name: "a reset before the effect", means: "unavailable", forward: false, reply: reset },
  { name: "a reset after the effect", means: "unavailable", forward: true, reply: reset },
  { name: "a truncated answer", means: "unavailable", forward: true, reply: truncate },
  {
    name: "half a document",
    means: "either",
    ...instead(({ body }) => body.subarray(0, Math.max(1, body.length / 2))),
  },
  { name: "20 MB", means: "unavailable", ...instead(() => Buffer.alloc(20 * 1024 * 1024, " ")) },
  {
    name: "another shape",
    means: "either",
    ...instead((came) => (isXml(came) ? "<Other><A>1</A></Other>" : '[{"a":1}]')),
  },
  {
    name: "endless depth",
    means: "either",
    ...instead((came) => (isXml(came) ? "<A>".repeat(DEPTH) : "[".repeat(DEPTH) + "]".repeat(DEPTH))),
  },
  {
    name: "an empty answer",
    means: "either",
    looksGood: true,
    ...plainly(200, { "content-type": "application/json" }, ""),
  },
  { name: "an empty answer after the effect", means: "either", ...instead(() => "") },
  { name: "a login page", means: "either", looksGood: true, ...plainly(200) },
  { name: "204", means: "either", looksGood: true, ...plainly(204, {}, "") },
  { name: "a proxy's 404", means: "either", ...plainly(404) },
  { name: "a proxy's 401", means: "either", ...plainly(401) },
  { name: "a proxy's 403", means: "either", ...plainly(403) },
  {
    name: "a redirect to another host",
    means: "rejected",
    forward: false,
    reply: (r, _c, to) => void r.writeHead(307, { location: `${to}/take` }).end(),
  },
  {
    name: "a redirect after the effect",
    means: "rejected",
    forward: true,
    reply: (r, _c, to) => void r.writeHead(302, { location: `${to}/take` }).end(),
  },
  {
    name: "huge headers",
    means: "unavailable",
    forward: true,
    reply: (r, c) => void r.writeHead(c.status, { "x-huge": "x".repeat(60_000) }).end(c.body),
  },
  {
    name: "many headers",
    means: "unavailable",
    forward: true,
    reply: (r, c) => void r.writeHead(c.status, many()).end(c.body),
  },
];

/** What stands between an issuer and its far side. */
export interface FaultProxy<Kind> extends AsyncDisposable {
  readonly url: string;
  /** The same with a certificate that nobody should accept. */
  readonly tlsUrl: string;
  /** Lets the fault happen to the requests of these numbers, from now and 1 on; to all when undefined. `met` is told each time. */
  fail(fault: Kind, numbers: readonly number[] | undefined, met: () => void): void;
  /** Requests go through unharmed again. */
  clear(): void;
  /** Requests that reached the host that faults redirect to, and those that came in spite of the certificate. */
  strangers(): number;
}

/** An HTTP proxy. */
export async function faultProxy(farSide: string): Promise<FaultProxy<Fault>> {
  let failing:
    | { readonly fault: Fault; readonly numbers: readonly number[] | undefined; readonly met: () => void }
    | undefined;
  let seen = 0;
  let strangers = 0;
  const stranger = createServer((_request, response) => {
    strangers += 1;
    response.end();
  });
  const server = createServer((request, response) => {
    response.on("error", () => undefined);
    seen += 1;
    const now = failing?.numbers === undefined || failing.numbers.includes(seen) ? failing : undefined;
    void relay(farSide, address(server), request, now?.fault.forward ?? true).then(
      (came) => {
        if (now === undefined) response.writeHead(came.status, came.headers).end(came.body);
        else now.fault.reply(response, came, address(stranger));
        now?.met();
      },
      () => response.destroy(),
    );
  });
  const { cert, key } = certify({ cn: "localhost", san: [names.ip(127, 0, 0, 1)] });
  const tls = createTlsServer({ cert, key }, (_request, response) => {
    strangers += 1;
    response.end();
  });
  const all = [server, stranger, tls];
  await Promise.all(all.map((one) => once(one.listen(0, "127.0.0.1"), "listening")));
  return {
    url: address(server),
    tlsUrl: address(tls).replace("http:", "https:"),
    fail(fault, numbers, met) {
      failing = { fault, numbers, met };
      seen = 0;
    },
    clear() {
      failing = undefined;
    },
    strangers: () => strangers,
    async [Symbol.asyncDispose]() {
      for (const one of all) one.closeAllConnections();
      await Promise.all(all.map((one) => new Promise((closed) => one.close(closed))));
    },
  };
}

function address(server: { address(): unknown }): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function relay(farSide: string, own: string, request: IncomingMessage, forward: boolean): Promise<Came> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  if (!forward) return { status: 0, headers: {}, body: Buffer.alloc(0) };
  const { protocol, hostname, port } = new URL(farSide);
  const ask = protocol === "https:" ? httpsRequest : httpRequest;
  // The host of the request stays: some sign it.
  const { connection: _hop, ...headers } = request.headers;
  const { method, url: path } = request;
  const upstream = ask({ hostname, port, method, path, headers, agent: false, rejectUnauthorized: false });
  upstream.end(Buffer.concat(chunks));
  const [answer] = (await once(upstream, "response")) as [IncomingMessage];
  const got: Buffer[] = [];
  for await (const chunk of answer) got.push(chunk as Buffer);
  const { connection: _back, "transfer-encoding": _framing, "content-length": _length, ...told } = answer.headers;
  // Where the far side names itself, it names what stands before it.
  const body = Buffer.from(Buffer.concat(got).toString("latin1").replaceAll(farSide, own), "latin1");
  return { status: answer.statusCode ?? 502, headers: told, body };
}

function reset(response: ServerResponse): void {
  const { socket } = response;
  if (socket !== null && "resetAndDestroy" in socket) socket.resetAndDestroy();
  else response.destroy();
}

function truncate(response: ServerResponse, { status, headers, body }: Came): void {
  response.writeHead(status === 204 ? 200 : status, { ...headers, "content-length": body.length + 10 });
  response.write(body.subarray(0, body.length / 2), () => response.destroy());
}

function drip(response: ServerResponse, { headers }: Came): void {
  response.writeHead(200, { "content-type": String(headers["content-type"] ?? "application/json") });
  const timer = setInterval(() => response.write(" "), 5);
  response.on("close", () => clearInterval(timer));
}

function many(): Record<string, string> {
  return Object.fromEntries(Array.from({ length: 1_200 }, (_, i) => [`x-${i}`, "1234567890"]));
}
