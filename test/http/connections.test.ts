import { describe, expect, test } from "@jest/globals";
import type { HttpLimits } from "../../src/http/server.ts";
import { until } from "../support/until.ts";
import { authenticateForTest, noteEndpoint, received, serving, TASK_ID, taskEndpoint } from "./harness.ts";
import { BODY, closing, FULL, HEAD, reading } from "./sockets.ts";

// Short, so that a test of a limit is over when it fires; what is awaited is always the event itself.
const short: Partial<HttpLimits> = {
  headersTimeoutMs: 100,
  requestTimeoutMs: 200,
  connectionsCheckingIntervalMs: 20,
  keepAliveTimeoutMs: 100,
};

describe("what is not HTTP is refused with a problem document, and the connection ends", () => {
  const get = (rest: string) => `GET /v1/tasks/${TASK_ID} HTTP/1.1\r\nHost: x\r\n${rest}\r\n`;
  test.each<[string, string, number]>([
    ["noise", "\u0000\u0001\u0002 noise\r\n\r\n", 400],
    ["a TLS hello", "\u0016\u0003\u0001\u0002\u0000\u0001\u0000\u0001\u00fc\u0003\u0003", 400],
    ["an unknown method", "BREW /coffee HTTP/1.1\r\nHost: x\r\n\r\n", 400],
    ["HTTP/3.0", "GET / HTTP/3.0\r\nHost: x\r\n\r\n", 400],
    ["a space before the colon", get("X-A : 1\r\n"), 400],
    ["a folded header", get("X-A: 1\r\n 2\r\n"), 400],
    ["a bare line feed in a header", get("X-A: 1\nX-B: 2\r\n"), 400],
    ["NUL in a header", get("X-A: a\u0000b\r\n"), 400],
    ["two different lengths", `${HEAD}Content-Length: 5\r\nContent-Length: 6\r\n\r\n${BODY}`, 400],
    ["the same length twice", `${HEAD}Content-Length: 12\r\nContent-Length: 12\r\n\r\n${BODY}`, 400],
    [
      "a length beside chunks (smuggling)",
      `${HEAD}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      400,
    ],
    ["chunked twice", `${HEAD}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
    ["chunked and then something", `${HEAD}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n`, 400],
    ["a disguised chunked", `${HEAD}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`, 400],
    ["a negative length", `${HEAD}Content-Length: -1\r\n\r\n`, 400],
    ["a signed length", `${HEAD}Content-Length: +12\r\n\r\n${BODY}`, 400],
    ["a length of 30 digits", `${HEAD}Content-Length: ${"9".repeat(30)}\r\n\r\n`, 400],
    ["a chunk size that is none", `${HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n`, 400],
    ["headers of 20 KB", get(`X-A: ${"a".repeat(20_000)}\r\n`), 431],
    ["a path of 20 KB", `GET /${"a".repeat(20_000)} HTTP/1.1\r\nHost: x\r\n\r\n`, 431],
    ["a fragment", `GET /healthz#x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`, 400],
    ["a backslash", `GET http://x\\healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`, 400],
    ["raw bytes in the path", `GET /h\u00e9althz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`, 400],
    ["no Host", `GET / HTTP/1.1\r\nConnection: close\r\n\r\n`, 400],
    ["two Hosts", get("Host: y\r\nAuthorization: Bearer agent\r\nConnection: close\r\n"), 400],
    [
      "an expectation nobody can meet",
      `${HEAD}Expect: 200-maybe\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`,
      417,
    ],
  ])("%s", async (_, bytes, status) => {
    await using server = await serving([noteEndpoint(), taskEndpoint()]);
    const got = await server.raw(Buffer.from(bytes, "latin1"));
    expect(got).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(got.toLowerCase()).toContain("content-type: application/problem+json\r\n");
    expect(got.toLowerCase()).toContain("connection: close\r\n");
    expect(got.toLowerCase()).toContain("cache-control: no-store\r\n");
    expect(got.match(/HTTP\/1\.1/g)).toHaveLength(1);
    expect(JSON.parse(got.slice(got.indexOf("\r\n\r\n") + 4))).toMatchObject({ code: "invalid_request", status });
  });

  test("a token of 8 KiB still fits into the headers", async () => {
    await using server = await serving([noteEndpoint()]);
    const got = await server.ask({ as: `Bearer ${"A".repeat(8192)}`, body: { text: "a" } });
    expect(got.status).toBe(401);
  });

  test("a request that follows a malformed one on the connection is never read", async () => {
    let runs = 0;
    await using server = await serving([
      noteEndpoint(async ({ body }) => {
        runs += 1;
        return { status: 201, body: { note: body } };
      }),
    ]);
    await server.raw(`GET / HTTP/1.1\r\nHost : x\r\n\r\n${FULL}`);
    expect(runs).toBe(0);
  });
});

describe("well-formed HTTP that is rare", () => {
  test("absolute-form reaches the same endpoint (RFC 9112 §3.2.2)", async () => {
    const paths: string[] = [];
    await using server = await serving([taskEndpoint()], {
      authenticate: async (headers, { path }) => {
        paths.push(path);
        return authenticateForTest(headers);
      },
    });
    const got = await server.raw(
      `GET http://other.example/v1/tasks/${TASK_ID} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer agent\r\nConnection: close\r\n\r\n`,
    );
    expect(got).toMatch(/^HTTP\/1\.1 200 /);
    expect(paths).toEqual([`/v1/tasks/${TASK_ID}`]);
  });

  test("HTTP/1.0 without a Host is answered and closed", async () => {
    await using server = await serving([taskEndpoint()]);
    expect(await server.raw("GET /healthz HTTP/1.0\r\n\r\n")).toMatch(/^HTTP\/1\.1 200 /);
  });

  test("pipelined requests are answered in order, each with its own", async () => {
    await using server = await serving([noteEndpoint()]);
    const one = (text: string, last: boolean) => {
      const body = JSON.stringify({ text });
      return `${HEAD}${last ? "Connection: close\r\n" : ""}Content-Length: ${body.length}\r\n\r\n${body}`;
    };
    const got = await server.raw([1, 2, 3, 4, 5].map((index) => one(`n${index}`, index === 5)).join(""));
    expect(got.match(/"text":"n\d"/g)).toEqual([1, 2, 3, 4, 5].map((index) => `"text":"n${index}"`));
  });

  test("Expect: 100-continue gets its 100 and then the answer", async () => {
    await using server = await serving([noteEndpoint()]);
    const socket = await server.open();
    const stream = reading(socket);
    socket.write(`${HEAD}Expect: 100-continue\r\nConnection: close\r\nContent-Length: ${BODY.length}\r\n\r\n`);
    await stream.contains("HTTP/1.1 100 Continue");
    socket.write(BODY);
    await stream.contains("HTTP/1.1 201 Created");
    socket.destroy();
  });

  test("CONNECT opens no tunnel", async () => {
    await using server = await serving([noteEndpoint()]);
    expect(await server.raw("CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n")).toBe("");
  });

  test("an upgrade is not made", async () => {
    await using server = await serving([taskEndpoint()]);
    const got = await server.raw(
      `GET /v1/tasks/${TASK_ID} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n`,
    );
    expect(got).not.toContain("101");
  });
});

describe("who is slow is not waited for", () => {
  test("headers that do not end are 408, long before a body would be", async () => {
    await using server = await serving([noteEndpoint()], { limits: { ...short, requestTimeoutMs: 300_000 } });
    expect(await server.raw("POST /v1/notes HTTP/1.1\r\nHost: x\r\nX-Slow: ")).toMatch(/^HTTP\/1\.1 408 /);
  });

  test("a connection on which nothing is said is closed", async () => {
    await using server = await serving([noteEndpoint()], { limits: short });
    const socket = await server.open();
    await received(socket);
  });

  test("a body that does not come is 408, and no handler runs", async () => {
    let runs = 0;
    const endpoint = noteEndpoint(async ({ body }) => {
      runs += 1;
      return { status: 201, body: { note: body } };
    });
    await using server = await serving([endpoint], { limits: short });
    const got = await server.raw(`${HEAD}Content-Length: 1000\r\n\r\n{"text":`);
    expect(got).toMatch(/^HTTP\/1\.1 408 /);
    expect(got.match(/HTTP\/1\.1/g)).toHaveLength(1);
    await until("the log line", () => server.log.some((line) => line["status"] === 499));
    expect([runs, server.refusals.length]).toEqual([0, 0]);
  });

  test("a body that is announced as too large is refused before it is sent", async () => {
    await using server = await serving([noteEndpoint()]);
    const socket = await server.open();
    const stream = reading(socket);
    socket.write(`${HEAD}Content-Length: 100000\r\n\r\n`);
    await stream.contains("HTTP/1.1 413 ");
    socket.destroy();
  });

  test("three hundred of them do not delay anybody else", async () => {
    await using server = await serving([noteEndpoint()]);
    const slow = await Promise.all(Array.from({ length: 300 }, () => server.open()));
    for (const [index, socket] of slow.entries()) {
      socket.write(index % 2 === 0 ? "POST /v1/notes HTTP/1.1\r\nHost: x\r\n" : `${HEAD}Content-Length: 1000\r\n\r\n{`);
    }
    expect((await server.ask({ body: { text: "a" } })).status).toBe(201);
    for (const socket of slow) socket.destroy();
  });

  test("a caller that is refused and goes on sending is cut off, not read for ever", async () => {
    await using server = await serving([noteEndpoint()]);
    const socket = await server.open();
    const stream = reading(socket);
    socket.write(`${HEAD}Transfer-Encoding: chunked\r\n\r\n`);
    const chunk = `10000\r\n${"x".repeat(65_536)}\r\n`;
    let sent = 0;
    const pump = () => {
      while (!socket.destroyed && sent < 64 * 1024 * 1024) {
        sent += chunk.length;
        if (!socket.write(chunk)) {
          socket.once("drain", pump);
          return;
        }
      }
    };
    pump();
    await closing(socket);
    expect(stream.text).toMatch(/^HTTP\/1\.1 413 /);
    expect(sent).toBeLessThan(32 * 1024 * 1024);
  });
});
