import { createServer, type Server, request as send } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import express from "express";
import * as oauth from "oauth4webapi";
import { accessOf, createVerifier, protect, type Verifier } from "../../src/verify/index.ts";
import { until } from "../support/until.ts";
import { type Broker, startBroker, TOOL_TOKEN } from "./broker.ts";
import { aCaller, type Caller } from "./caller.ts";

let broker: Broker;
let caller: Caller;
let server: Server;
let origin: string;
let audience: string;
let verifier: Verifier;
let withNonces: Verifier;
let handled: string[] = [];

beforeAll(async () => {
  broker = await startBroker();
  caller = await aCaller();
  server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  audience = `${origin}/api`;
  broker.audiences.push(audience);
  const options = { issuer: broker.issuer, audience, authorization: () => TOOL_TOKEN };
  verifier = await createVerifier(options);
  withNonces = await createVerifier({ ...options, nonceKey: Buffer.alloc(32, 1) });

  const app = express();
  const operationOf = (request: express.Request): { action: string; resource: string } => ({
    action: request.method === "GET" ? "read" : "write",
    resource: "tickets",
  });
  const tickets = express.Router();
  tickets.use(protect(verifier, operationOf));
  tickets.all("/:id", (request, response) => {
    const { id } = request.params;
    handled.push(id);
    if (id === "403") response.status(403).json({});
    else response.json({ id, by: accessOf(request).subject });
  });
  app.use("/api/tickets", tickets);
  app.use("/api/nonces", protect(withNonces, operationOf), (_request, response) => void response.json({ ok: true }));
  const throwing: [string, unknown][] = [
    ["undefined", undefined],
    ["route", "route"],
    ["router", "router"],
    ["error", new Error("a fault of the API")],
  ];
  for (const [name, thrown] of throwing) {
    const guard = protect(verifier, () => {
      throw thrown;
    });
    app.use(`/api/throws/${name}`, guard, (_request, response) => {
      handled.push(name);
      response.json({ ok: true });
    });
  }
  app.use(
    ((_error, _request, response, _next) =>
      void response.status(500).json({ code: "internal" })) as express.ErrorRequestHandler,
  );
  server.on("request", app);
});
afterEach(() => {
  handled = [];
});
afterAll(async () => {
  await Promise.all([verifier.close(), withNonces.close()]);
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await broker[Symbol.asyncDispose]();
  expect(broker.problems).toEqual([]);
});

const mint = async (jti: string, jkt: string, actions = ["read"]): Promise<string> =>
  broker.mint({
    claims: {
      jti,
      aud: audience,
      cnf: { jkt },
      authorization_details: [
        {
          type: "https://mayfly.dev/rar/task/v1",
          task_id: "t",
          locations: [audience],
          actions,
          resources: ["tickets"],
        },
      ],
    },
  });

async function call(path: string, token: string, method = "GET"): Promise<Response> {
  const url = `${origin}${path}`;
  const dpop = await caller.proof(token, { claims: { htm: method, htu: url.split("?")[0] ?? "" } });
  return await fetch(url, { method, headers: { authorization: `DPoP ${token}`, dpop } });
}

const usesOf = async (jti: string, count = 1): Promise<unknown[]> => {
  const find = (): unknown[] => broker.uses.filter(({ credential_id: id }) => id === jti);
  await until("the use was reported", () => find().length >= count);
  return find();
};

describe("an Express API", () => {
  test("serves a call that is granted, knows who called, and reports the use", async () => {
    const response = await call("/api/tickets/7?verbose=1", await mint("crd_a", caller.jkt));
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({ id: "7", by: "agt_reporter" });
    expect(await usesOf("crd_a")).toEqual([
      { credential_id: "crd_a", action: "read", resource: "tickets", outcome: "allowed", at: expect.any(String) },
    ]);
  });

  test("refuses what was not granted with 403, without calling the handler, and reports that too", async () => {
    const response = await call("/api/tickets/7", await mint("crd_b", caller.jkt), "DELETE");
    expect(response.status).toBe(403);
    expect(response.headers.get("www-authenticate")).toMatch(/^DPoP error="insufficient_scope", error_description="/);
    expect(response.headers.get("content-type")).toBe("application/problem+json");
    expect(await response.json()).toEqual({
      type: "about:blank",
      status: 403,
      code: "insufficient_scope",
      detail: expect.any(String),
    });
    expect(handled).toEqual([]);
    expect(await usesOf("crd_b")).toMatchObject([{ action: "write", outcome: "refused" }]);
  });

  test("reports its own refusals as such", async () => {
    expect((await call("/api/tickets/403", await mint("crd_c", caller.jkt))).status).toBe(403);
    expect(await usesOf("crd_c")).toMatchObject([{ outcome: "refused" }]);
  });

  test("answers a revoked token with 401 from the moment it knows", async () => {
    const token = await mint("crd_d", caller.jkt);
    expect((await call("/api/tickets/7", token)).status).toBe(200);
    broker.setStatus("crd_d", 1);
    await until("it is refused", async () => (await call("/api/tickets/7", token)).status === 401);
    const response = await call("/api/tickets/7", token);
    expect(await response.json()).toMatchObject({ code: "token_revoked" });
    expect(response.headers.get("cache-control")).toBe("no-store");
  });

  test("answers without a token 401, and lets nobody through", async () => {
    const response = await fetch(`${origin}/api/tickets/7`);
    expect(response.status).toBe(401);
    expect(response.headers.get("www-authenticate")).toBe(
      `DPoP algs="ES256 Ed25519 EdDSA PS256", resource_metadata="${origin}/.well-known/oauth-protected-resource/api"`,
    );
    expect(handled).toEqual([]);
  });

  test("sees a second Authorization header, which Node hides", async () => {
    const token = await mint("crd_e", caller.jkt);
    const dpop = await caller.proof(token, { claims: { htu: `${origin}/api/tickets/7` } });
    const headers = ["Host", "x", "Authorization", `DPoP ${token}`, "authorization", `DPoP ${token}`, "DPoP", dpop];
    expect(await rawCall("/api/tickets/7", headers)).toMatchObject({ status: 400, code: "request_malformed" });
    const twoProofs = ["Host", "x", "Authorization", `DPoP ${token}`, "DPoP", dpop, "DPoP", dpop];
    expect(await rawCall("/api/tickets/7", twoProofs)).toMatchObject({ status: 401, code: "proof_invalid" });
    expect(handled).toEqual([]);
  });

  test("takes its own name for the proof's URI, whatever Host and the request line say", async () => {
    const token = await mint("crd_f", caller.jkt);
    const fake = "http://evil.test";
    const dpop = await caller.proof(token, { claims: { htu: `${fake}/api/tickets/7` } });
    const headers = ["Authorization", `DPoP ${token}`, "DPoP", dpop, "X-Forwarded-Host", "evil.test"];
    expect(await rawCall("/api/tickets/7", ["Host", "evil.test", ...headers])).toMatchObject({ code: "proof_invalid" });
    const line = `GET ${fake}/api/tickets/7 HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\nAuthorization: DPoP ${token}\r\nDPoP: ${dpop}\r\n\r\n`;
    expect(await onTheWire(line)).toContain('"code":"request_malformed"');
    expect(handled).toEqual([]);
  });

  test.each(["undefined", "route", "router", "error"])(
    "lets nobody through when its own function throws (%s)",
    async (name) => {
      const response = await call(`/api/throws/${name}`, await mint("crd_g", caller.jkt));
      expect(response.status).toBe(500);
      expect(handled).toEqual([]);
    },
  );

  test("has no access for a request that was not let through", () => {
    expect(() => accessOf({} as never)).toThrow(TypeError);
  });
});

describe("oauth4webapi, which is not ours", () => {
  const http = { [oauth.allowInsecureRequests]: true };
  const client: oauth.Client = { client_id: "reporter" };

  test("calls the API with DPoP", async () => {
    const keys = await oauth.generateKeyPair("ES256", { extractable: true });
    const DPoP = oauth.DPoP(client, keys);
    const token = await mint("crd_h", await DPoP.calculateThumbprint());
    const url = new URL(`${origin}/api/tickets/8?x=1`);
    for (let round = 0; round < 2; round += 1) {
      const response = await oauth.protectedResourceRequest(token, "GET", url, undefined, undefined, { DPoP, ...http });
      expect(await response.json()).toEqual({ id: "8", by: "agt_reporter" });
    }
  });

  test("understands that a nonce is needed, and uses those that it is given", async () => {
    const keys = await oauth.generateKeyPair("ES256", { extractable: true });
    const DPoP = oauth.DPoP(client, keys);
    const token = await mint("crd_i", await DPoP.calculateThumbprint());
    const get = async (): Promise<Response> =>
      oauth.protectedResourceRequest(token, "GET", new URL(`${origin}/api/nonces`), undefined, undefined, {
        DPoP,
        ...http,
      });
    const error: unknown = await get().catch((thrown: unknown) => thrown);
    expect(oauth.isDPoPNonceError(error)).toBe(true);
    const response = await get();
    expect(await response.json()).toEqual({ ok: true });
    expect(response.headers.get("dpop-nonce")).not.toBeNull();
    expect((await get()).status).toBe(200);
  });

  test("reads our challenges", async () => {
    const keys = await oauth.generateKeyPair("ES256", { extractable: true });
    const token = await mint("crd_j", caller.jkt);
    const error: unknown = await oauth
      .protectedResourceRequest(token, "GET", new URL(`${origin}/api/tickets/8`), undefined, undefined, {
        DPoP: oauth.DPoP(client, keys),
        ...http,
      })
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(oauth.WWWAuthenticateChallengeError);
    expect((error as oauth.WWWAuthenticateChallengeError).cause).toMatchObject([
      { scheme: "dpop", parameters: { error: "invalid_token", algs: expect.stringContaining("ES256") } },
    ]);
  });
});

/** A call whose headers are sent as they are, twice if need be. */
async function rawCall(path: string, headers: string[]): Promise<{ status: number | undefined; code: string }> {
  return await new Promise((resolve, reject) => {
    const outgoing = send(`${origin}${path}`, { headers }, (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => (text += chunk.toString()));
      response.on("end", () =>
        resolve({ status: response.statusCode, code: (JSON.parse(text) as { code: string }).code }),
      );
    });
    outgoing.on("error", reject);
    outgoing.end();
  });
}

async function onTheWire(text: string): Promise<string> {
  return await new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(origin).port), "127.0.0.1");
    let answer = "";
    socket.on("data", (chunk) => (answer += chunk.toString()));
    socket.on("end", () => resolve(answer));
    socket.on("error", reject);
    socket.write(text);
  });
}
