import { randomUUID } from "node:crypto";
import { STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";
import { MayflyError } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import type { Exchanges } from "./exchange.ts";
import { securityHeaders } from "./headers.ts";
import { problemAnswer } from "./problem.ts";

const refusals: Readonly<Record<string, readonly [status: number, detail: string]>> = {
  ERR_HTTP_REQUEST_TIMEOUT: [408, "the request did not arrive in time"],
  HPE_HEADER_OVERFLOW: [431, "the headers are too large"],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: [413, "the chunk extensions are too large"],
};

/**
 * Answers what never became a request: malformed HTTP, oversized headers, a body that does not come. The
 * connection ends with it, because where the next request would begin is anyone's guess (request smuggling).
 */
export function answerMalformed(
  error: Error & { code?: string },
  socket: Duplex,
  exchanges: Exchanges,
  log: Log,
): void {
  // Without a handshake there is nobody who could read an answer.
  if (
    error.code === "ECONNRESET" ||
    /^ERR_(SSL|TLS)_/.test(error.code ?? "") ||
    !socket.writable ||
    !exchanges.yieldSocket(socket)
  ) {
    socket.destroy();
    return;
  }
  const [status, detail] = refusals[error.code ?? ""] ?? [400, "this is not well-formed HTTP"];
  const requestId = randomUUID();
  const { headers, body } = problemAnswer(new MayflyError("invalid_request", detail), requestId, status);
  const lines = Object.entries({
    ...securityHeaders,
    ...headers,
    "x-request-id": requestId,
    "content-length": String(Buffer.byteLength(body)),
    connection: "close",
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join("")}\r\n${String(body)}`, () => {
    socket.destroy();
  });
  log.info({ requestId, status, reason: error.code }, "malformed request");
}
