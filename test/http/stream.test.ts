import { once } from "node:events";
import { connect } from "node:net";
import { describe, expect, test } from "@jest/globals";
import { Registry } from "prom-client";
import { z } from "zod";
import { type Endpoint, endpoint } from "../../src/http/endpoint.ts";
import { until } from "../support/until.ts";
import { gate, noteEndpoint, received, serving } from "./harness.ts";

/** A stream of what `pieces` makes; `signal` is the one that the handler was given. */
function streamOf(pieces: (signal: AbortSignal) => AsyncGenerator<string>): Endpoint {
  return endpoint({
    method: "get",
    path: "/v1/stream",
    summary: "A stream",
    tag: "stream",
    allow: ["agent"],
    stream: true,
    mediaType: "text/event-stream",
    replies: { 200: z.string() },
    handle: async ({ signal }) => ({ status: 200, body: pieces(signal()), headers: { "cache-control": "no-store" } }),
  });
}

const until_ = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve());
  });

const GET = "GET /v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer agent\r\n\r\n";

describe("a streamed answer", () => {
  test("leaves piece by piece, past the time limit of a request, and is measured by its first byte", async () => {
    const metrics = new Registry();
    const more = gate();
    const pieces = async function* () {
      yield "one";
      await more.passed;
      yield "two";
    };
    const never = noteEndpoint(() => new Promise<never>(() => undefined));
    const limits = { handlerTimeoutMs: 30, stopTimeoutMs: 50 };
    await using server = await serving([streamOf(pieces), never], { metrics, limits });
    const socket = await server.open();
    let text = "";
    socket.on("data", (chunk: Buffer) => (text += chunk.toString()));
    socket.write(GET);
    await until("the first piece", () => text.includes("one"));
    expect(text).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    expect(text.toLowerCase()).toContain("content-type: text/event-stream\r\n");
    // A request that came later is out of time.
    expect((await server.ask({ body: { text: "a" } })).status).toBe(503);
    const observed = () => metrics.getSingleMetricAsString("mayfly_http_request_duration_seconds");
    expect(await observed()).toContain('_count{route="/v1/stream",method="GET",status="200"} 1');
    more.open();
    await until("the end", () => text.endsWith("0\r\n\r\n"));
    expect(text).toContain("two");
    const line = await until("its log line", () => server.log.find(({ route }) => route === "/v1/stream"));
    expect(line).toMatchObject({ status: 200, level: "info" });
    expect(await observed()).toContain('_count{route="/v1/stream",method="GET",status="200"} 1');
    socket.destroy();
  });

  test("tells its maker when the caller hangs up, also while nothing is written", async () => {
    const told = gate();
    const pieces = async function* (signal: AbortSignal) {
      yield "one";
      await until_(signal);
      told.open();
    };
    await using server = await serving([streamOf(pieces)]);
    const socket = await server.open();
    socket.write(GET);
    await once(socket, "data");
    socket.destroy();
    await told.passed;
  });

  test("ends properly and at once when the server stops, even if its maker waits for something else", async () => {
    const pieces = async function* () {
      yield "one";
      await new Promise<never>(() => undefined);
    };
    await using server = await serving([streamOf(pieces)]);
    const socket = await server.open();
    const all = received(socket);
    socket.write(GET);
    await once(socket, "data");
    expect(await server.http.stop()).toBe(true);
    expect(await all).toMatch(/0\r\n\r\n$/);
  });

  test("is cut off when its reader takes nothing, and no more is made than the reader takes", async () => {
    let made = 0;
    const stopped = gate();
    const pieces = async function* () {
      try {
        for (;;) {
          made += 1;
          yield "x".repeat(256 * 1024);
        }
      } finally {
        stopped.open();
      }
    };
    await using server = await serving([streamOf(pieces)], { limits: { slowReaderMs: 200 } });
    const socket = connect({ port: server.port, host: "127.0.0.1" });
    socket.on("error", () => undefined);
    await once(socket, "connect");
    socket.pause();
    socket.write(GET);
    await stopped.passed;
    const line = await until("its log line", () => server.log.find(({ route }) => route === "/v1/stream"));
    expect(line["status"]).toBe(499);
    // What the sockets of both sides hold, and one piece.
    expect(made).toBeLessThan(200);
    socket.destroy();
  });

  test("that breaks off is cut, so that nobody takes it for whole, and is logged as an error", async () => {
    const pieces = async function* () {
      yield "one";
      throw new Error("no more");
    };
    await using server = await serving([streamOf(pieces)]);
    const socket = await server.open();
    const all = received(socket);
    socket.write(GET);
    expect(await all).not.toMatch(/0\r\n\r\n$/);
    await until("its log line", () =>
      server.log.some(({ msg, level }) => msg === "a stream broke off" && level === "error"),
    );
  });

  test("to HEAD is its headers alone, and nothing is made", async () => {
    let made = 0;
    const aborted = gate();
    const pieces = (signal: AbortSignal) => {
      signal.addEventListener("abort", () => aborted.open());
      return (async function* () {
        made += 1;
        yield "one";
      })();
    };
    await using server = await serving([streamOf(pieces)]);
    const got = await server.ask({ method: "HEAD", path: "/v1/stream" });
    expect([got.status, got.headers["content-type"], got.text, made]).toEqual([200, "text/event-stream", "", 0]);
    await aborted.passed;
  });

  test("is described: its media type, and the header to go on with", async () => {
    await using server = await serving([streamOf(async function* () {})]);
    const { json } = await server.ask({ path: "/openapi.json" });
    const operation = (json["paths"] as any)["/v1/stream"].get;
    expect(operation.parameters.map(({ name }: { name: string }) => name)).toContain("Last-Event-ID");
    expect(Object.keys(operation.responses["200"].content)).toEqual(["text/event-stream"]);
  });
});
