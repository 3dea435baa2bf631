import { describe, expect, test } from "@jest/globals";
import type { HttpLimits } from "../../src/http/server.ts";
import { until } from "../support/until.ts";
import { authenticateForTest, gate, noteEndpoint, received, type Serving, serving } from "./harness.ts";
import { closing, connections, FULL, HEAD, reading } from "./sockets.ts";

describe("a handler", () => {
  test("that takes too long is answered 503, and told to stop", async () => {
    const told = gate<unknown>();
    const endpoint = noteEndpoint(
      ({ signal }) =>
        new Promise((_, reject) => {
          signal().addEventListener("abort", () => {
            told.open(signal().reason);
            reject(signal().reason as Error);
          });
        }),
    );
    await using server = await serving([endpoint], { limits: { handlerTimeoutMs: 50 } });
    const got = await server.ask({ body: { text: "a" } });
    expect([got.status, got.json["code"], got.headers["retry-after"]]).toEqual([503, "unavailable", "1"]);
    expect(String(await told.passed)).toContain("time limit");
  });

  test("an authentication or an audit that hangs is 503 as well", async () => {
    const never = new Promise<never>(() => undefined);
    await using one = await serving([noteEndpoint()], {
      authenticate: () => never,
      limits: { handlerTimeoutMs: 50, stopTimeoutMs: 50 },
    });
    await using two = await serving([noteEndpoint()], {
      onRefused: () => never,
      limits: { handlerTimeoutMs: 50, stopTimeoutMs: 50 },
    });
    expect((await one.ask({ body: { text: "a" } })).status).toBe(503);
    expect((await two.ask({ body: {} })).status).toBe(503);
  });

  test("is told when its caller hangs up", async () => {
    const begun = gate();
    const told = gate<unknown>();
    const endpoint = noteEndpoint(async ({ body, signal }) => {
      signal().addEventListener("abort", () => told.open(signal().reason));
      begun.open();
      await told.passed;
      return { status: 201, body: { note: body } };
    });
    await using server = await serving([endpoint]);
    const socket = await server.open();
    socket.write(FULL);
    await begun.passed;
    socket.destroy();
    expect(String(await told.passed)).toContain("hung up");
    await until("its log line", () => server.log.some((line) => line["status"] === 499 && line["level"] === "info"));
  });

  test("does not run for a caller that hung up in the middle of the body", async () => {
    let runs = 0;
    const endpoint = noteEndpoint(async ({ body }) => {
      runs += 1;
      return { status: 201, body: { note: body } };
    });
    const known = gate();
    const authenticate: typeof authenticateForTest = async (headers) => {
      known.open();
      return authenticateForTest(headers);
    };
    await using server = await serving([endpoint], { authenticate });
    const socket = await server.open();
    socket.write(`${HEAD}Content-Length: 1000\r\n\r\n{"text":`);
    await known.passed;
    socket.destroy();
    const line = await until("its log line", () => server.log.find((each) => each["status"] === 499));
    expect(line).not.toHaveProperty("code");
    expect([runs, server.refusals.length]).toEqual([0, 0]);
  });

  test("that runs is not answered for by a malformed request behind it", async () => {
    const begun = gate();
    const finish = gate();
    await using server = await serving([
      noteEndpoint(async ({ body }) => {
        begun.open();
        await finish.passed;
        return { status: 201, body: { note: body } };
      }),
    ]);
    const socket = await server.open();
    const stream = reading(socket);
    socket.write(FULL);
    await begun.passed;
    socket.write("GET / HTTP/1.1\r\nHost : x\r\n\r\n");
    await closing(socket);
    expect(stream.text).toBe("");
    finish.open();
  });
});

describe("stop", () => {
  const slowServer = async (limits: Partial<HttpLimits> = {}) => {
    const begun = gate();
    const finish = gate();
    const aborted = gate<unknown>();
    const server: Serving = await serving(
      [
        noteEndpoint(async ({ body, signal }) => {
          signal().addEventListener("abort", () => aborted.open(signal().reason));
          begun.open();
          await finish.passed;
          return { status: 201, body: { note: body } };
        }),
      ],
      { limits },
    );
    return { server, begun, finish, aborted };
  };

  test("lets what is in flight finish, on a connection that then closes, and takes nothing new", async () => {
    const { server, begun, finish } = await slowServer();
    const inFlight = server.ask({ body: { text: "a" }, headers: { connection: "keep-alive" } });
    await begun.passed;
    const stopped = server.http.stop();
    await expect(server.open()).rejects.toMatchObject({ code: "ECONNREFUSED" });
    finish.open();
    const got = await inFlight;
    expect([got.status, got.headers["connection"]]).toEqual([201, "close"]);
    expect(await stopped).toBe(true);
    expect(await server.http.stop()).toBe(true);
  });

  test("answers 503 and close to a request that comes on a connection from before", async () => {
    const { server, begun, finish } = await slowServer();
    const inFlight = server.ask({ body: { text: "a" } });
    await begun.passed;
    const socket = await server.open();
    const stream = reading(socket);
    socket.write("GET /healthz HTTP/1.1\r\n");
    await connections(server, 2);
    const stopped = server.http.stop();
    socket.write("Host: x\r\n\r\n");
    await closing(socket);
    expect(stream.text).toMatch(/^HTTP\/1\.1 503 /);
    expect(stream.text.toLowerCase()).toContain("connection: close\r\n");
    expect(stream.text).toContain('"code":"unavailable"');
    finish.open();
    expect((await inFlight).status).toBe(201);
    expect(await stopped).toBe(true);
  });

  test("ends at its limit: what still runs is aborted and every connection closed", async () => {
    const { server, begun, finish, aborted } = await slowServer({ stopTimeoutMs: 50 });
    const socket = await server.open();
    socket.write(FULL);
    await begun.passed;
    const closed = received(socket);
    expect(await server.http.stop()).toBe(false);
    expect(await closed).toBe("");
    expect(String(await aborted.passed)).toContain("hung up");
    finish.open();
  });

  test("waits for a handler that nobody waits for any more", async () => {
    const { server, begun, finish, aborted } = await slowServer();
    const socket = await server.open();
    socket.write(FULL);
    await begun.passed;
    socket.destroy();
    await aborted.passed;
    let isStopped = false;
    const stopped = server.http.stop().then((finished) => {
      isStopped = true;
      return finished;
    });
    await new Promise(setImmediate);
    expect(isStopped).toBe(false);
    finish.open();
    expect(await stopped).toBe(true);
  });

  test("does not wait for connections on which nothing happens", async () => {
    await using server = await serving([noteEndpoint()]);
    const socket = await server.open();
    const closed = received(socket);
    await connections(server, 1);
    expect(await server.http.stop()).toBe(true);
    expect(await closed).toBe("");
  });
});

test("a port that is taken is an error of start, not a hang", async () => {
  await using server = await serving([]);
  await using other = await serving([]);
  await other.http.stop();
  await expect(other.http.start("127.0.0.1", server.port)).rejects.toMatchObject({ code: "EADDRINUSE" });
});
