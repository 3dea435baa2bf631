import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";

export type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** A real server on a free loopback port that counts its connections. */
export interface LocalServer extends AsyncDisposable {
  readonly port: number;
  readonly origin: string;
  connections(): number;
  /** Resolves when the connection that is open now has been closed. */
  closed(): Promise<void>;
}

export async function localServer(handler: Handler, tls?: { cert: string; key: string }): Promise<LocalServer> {
  const server: Server = tls === undefined ? createServer(handler) : createTlsServer(tls, handler);
  let connections = 0;
  let closed = Promise.resolve();
  server.on("connection", (socket) => {
    connections += 1;
    socket.on("error", () => {});
    closed = new Promise((resolve) => socket.on("close", () => resolve()));
  });
  server.on("tlsClientError", () => {});
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    port,
    origin: `${tls === undefined ? "http" : "https"}://127.0.0.1:${port}`,
    connections: () => connections,
    closed: () => closed,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Answers JSON with any headers. */
export function json(body: unknown, headers: Record<string, string> = {}, status = 200): Handler {
  return (_request, response) => {
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body));
  };
}
