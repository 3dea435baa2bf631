import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { inspect } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { openTargetConnections, refusalOf, type TargetConnections } from "../../src/issuers/target-fetch.ts";
import { failure } from "./conformance.ts";

let server: Server;
let elsewhere: Server;
let origin: string;
let other: string;
let far: TargetConnections;
let answer: (request: IncomingMessage, response: ServerResponse) => void | Promise<void>;
const strangers: string[] = [];

async function listen(one: Server): Promise<string> {
  await new Promise<void>((resolve) => one.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(one.address() as AddressInfo).port}`;
}

beforeAll(async () => {
  server = createServer((request, response) => void answer(request, response));
  elsewhere = createServer((request, response) => {
    strangers.push(String(request.headers["x-token"]));
    response.end();
  });
  origin = await listen(server);
  other = await listen(elsewhere);
  far = openTargetConnections({ origin, called: "the far side" });
});
afterAll(async () => {
  await far[Symbol.asyncDispose]();
  for (const one of [server, elsewhere]) {
    one.closeAllConnections();
    await new Promise((resolve) => one.close(resolve));
  }
});

const secret = "s.ecret-of-the-admin";
const ask = (path = "/", init = {}) =>
  far.fetch(`${origin}${path}`, { method: "POST", headers: { "x-token": secret }, body: `pin=${secret}`, ...init });

describe("the one way in which issuers speak HTTP", () => {
  test("sends what it was given and answers with what came, whatever the status", async () => {
    answer = async (request, response) => {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      response.writeHead(418, { "content-type": "application/json", "set-cookie": ["a=1", "b=2"] });
      response.end(
        JSON.stringify([request.method, request.url, request.headers["x-token"], String(Buffer.concat(chunks))]),
      );
    };
    const got = await ask("/v1/a%2Fb?c=d");
    expect([got.status, await got.json()]).toEqual([418, ["POST", "/v1/a%2Fb?c=d", secret, `pin=${secret}`]]);
    expect(got.headers.getSetCookie()).toEqual(["a=1", "b=2"]);
  });

  test.each<[string, (response: ServerResponse) => void, string]>([
    ["a redirect to somebody else", (r) => r.writeHead(307, { location: `${other}/take` }).end(), "target_rejected"],
    ["a redirect to itself", (r) => r.writeHead(301, { location: "/" }).end(), "target_rejected"],
    ["a compressed answer", (r) => r.writeHead(200, { "content-encoding": "gzip" }).end("x"), "target_unavailable"],
    ["more than it may", (r) => r.end(Buffer.alloc(20 * 1024 * 1024)), "target_unavailable"],
    ["headers without end", (r) => r.writeHead(200, { "x-big": "x".repeat(40_000) }).end(), "target_unavailable"],
    [
      "half an answer",
      (r) => void r.writeHead(200, { "content-length": 9 }).write("half", () => r.destroy()),
      "target_unavailable",
    ],
    ["nothing, and hangs up", (r) => r.socket?.destroy(), "target_unavailable"],
  ])("%s: an error that holds nothing of what was sent", async (_what, reply, code) => {
    answer = (_request, response) => reply(response);
    const error = await failure(ask());
    expect(error).toMatchObject({ code });
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(secret);
    expect(strangers).toEqual([]);
  });

  test.each(["before it is asked", "while it says nothing", "while it drips"])("given up on %s", async (when) => {
    const stop = new AbortController();
    answer = (_request, response) => {
      if (when === "while it drips") {
        const drip = setInterval(() => response.write("."), 5);
        response.on("close", () => clearInterval(drip));
      }
      stop.abort();
    };
    if (when === "before it is asked") stop.abort();
    expect(await failure(ask("/", { signal: stop.signal }))).toMatchObject({
      code: "target_unavailable",
      retryable: true,
    });
    answer = (_request, response) => void response.end("well");
    expect(await (await ask()).text()).toBe("well");
  });

  test.each([
    ["another host", () => `${other}/`],
    ["the same one with a name of its own", () => origin.replace("http://", "http://user:pass@")],
  ])("never asks %s", async (_what, url) => {
    expect(await failure(far.fetch(url(), { headers: { "x-token": secret } }))).toMatchObject({ code: "internal" });
    expect(strangers).toEqual([]);
  });

  test("says who did not answer", async () => {
    await using gone = openTargetConnections({ origin: "http://127.0.0.1:1", called: "the far side" });
    expect(await failure(gone.fetch("http://127.0.0.1:1/"))).toMatchObject({
      code: "target_unavailable",
      detail: "the far side did not answer (ECONNREFUSED)",
    });
  });
});

test.each([
  [400, undefined, "target_rejected", undefined],
  [403, "7", "target_rejected", undefined],
  [408, undefined, "target_unavailable", undefined],
  [429, "7", "target_unavailable", 7],
  [429, "999999", "target_unavailable", 900],
  [503, "Fri, 27 Nov 2026 00:00:00 GMT", "target_unavailable", undefined],
])("an answer of %i (Retry-After %s) is %s, to be tried again after %s s", (status, after, code, seconds) => {
  const response = new Response(null, {
    status,
    ...(after === undefined ? {} : { headers: { "retry-after": after } }),
  });
  expect(refusalOf(response, "it")).toMatchObject({ code, retryAfterSeconds: seconds });
});
