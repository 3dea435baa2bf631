import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import express from "express";
import * as oauth from "oauth4webapi";
import { createVerifier, protect, serveMetadata, type Verifier, type VerifierOptions } from "../../src/verify/index.ts";
import { metadataUrl } from "../../src/verify/resource-metadata.ts";
import { type Broker, startBroker } from "./broker.ts";

let broker: Broker;
const verifiers: Verifier[] = [];
const servers: Server[] = [];

beforeAll(async () => {
  broker = await startBroker();
});
afterAll(async () => {
  await Promise.all(verifiers.map((one) => one.close()));
  for (const server of servers) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
  await broker[Symbol.asyncDispose]();
});

async function listening(): Promise<{ server: Server; origin: string }> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  servers.push(server);
  return { server, origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

async function aVerifier(options: Omit<VerifierOptions, "issuer">): Promise<Verifier> {
  const verifier = await createVerifier({ issuer: broker.issuer, ...options });
  verifiers.push(verifier);
  return verifier;
}

/** An Express API at a port of its own, whose audience ends with `path`. */
async function anApi(path: string): Promise<{ origin: string; audience: string }> {
  const { server, origin } = await listening();
  const audience = `${origin}${path}`;
  const verifier = await aVerifier({ audience });
  const app = express();
  app.use(serveMetadata(verifier));
  app.use(protect(verifier, () => ({ action: "read", resource: "tickets" })));
  server.on("request", app);
  return { origin, audience };
}

describe("where the metadata of a resource is (RFC 9728 §3.1)", () => {
  test.each([
    ["https://resource.example.com", "https://resource.example.com/.well-known/oauth-protected-resource"],
    ["https://resource.example.com/", "https://resource.example.com/.well-known/oauth-protected-resource"],
    [
      "https://resource.example.com/resource1",
      "https://resource.example.com/.well-known/oauth-protected-resource/resource1",
    ],
    ["https://a.example/x/", "https://a.example/.well-known/oauth-protected-resource/x/"],
    ["https://a.example:8443/x?y=/z", "https://a.example:8443/.well-known/oauth-protected-resource/x?y=/z"],
    ["https://a.example/?y=1", "https://a.example/.well-known/oauth-protected-resource?y=1"],
    ["http://127.0.0.1:1/x", "http://127.0.0.1:1/.well-known/oauth-protected-resource/x"],
  ])("%s: %s", (resource, url) => {
    expect(metadataUrl(resource)).toBe(url);
  });

  test.each([
    "http://a.example/x",
    "urn:tickets",
    "https://u:p@a.example/",
    "https://u@a.example/",
    "https://a.example/#x",
    "https://",
  ])("%s has no such place", (resource) => {
    expect(metadataUrl(resource)).toBeUndefined();
  });
});

describe("an API", () => {
  test.each(["", "/", "/api", "/api/"])(
    "with the audience <origin>%s is found by a client that is not ours, from the challenge of a 401",
    async (path) => {
      const { origin, audience } = await anApi(path);
      const refused = await fetch(`${origin}/api`);
      expect(refused.status).toBe(401);
      const [, said] = /resource_metadata="([^"]+)"/.exec(refused.headers.get("www-authenticate") ?? "") ?? [];
      const found = await fetch(said ?? "");
      expect(found.headers.get("cache-control")).toBe("public, max-age=300");
      const document = await oauth.processResourceDiscoveryResponse(new URL(audience), found.clone());
      expect(document.authorization_servers).toEqual([broker.issuer]);
      const asked = await oauth.resourceDiscoveryRequest(new URL(audience), { [oauth.allowInsecureRequests]: true });
      // oauth4webapi takes every final slash for the host's.
      if (path !== "/api/") expect(await asked.json()).toEqual(await found.json());
    },
  );

  test("answers its metadata to GET and HEAD of that path alone, without a token", async () => {
    const { origin } = await anApi("/api");
    const url = `${origin}/.well-known/oauth-protected-resource/api`;
    expect((await fetch(`${url}?x=1`)).status).toBe(200);
    const head = await fetch(url, { method: "HEAD" });
    expect([head.status, await head.text()]).toEqual([200, ""]);
    expect((await fetch(url, { method: "POST" })).status).toBe(401);
    for (const other of [`${url}/`, `${url}s`, `${origin}/.well-known/oauth-protected-resource`])
      expect((await fetch(other)).status).toBe(401);
  });
});

describe("the metadata says what the kit does:", () => {
  const audience = "https://tickets.test/api";

  test("tokens are bound by DPoP, unless said otherwise", async () => {
    expect((await aVerifier({ audience })).resourceMetadata).toEqual({
      url: "https://tickets.test/.well-known/oauth-protected-resource/api",
      document: {
        resource: audience,
        authorization_servers: [broker.issuer],
        bearer_methods_supported: ["header"],
        dpop_signing_alg_values_supported: ["ES256", "Ed25519", "EdDSA", "PS256"],
        dpop_bound_access_tokens_required: true,
        tls_client_certificate_bound_access_tokens: false,
        authorization_details_types_supported: ["https://mayfly.dev/rar/task/v1"],
      },
    });
  });

  test.each<[string, Partial<VerifierOptions>, boolean]>([
    ["bearer tokens are taken", { allowBearer: true }, false],
    ["certificates are", { clientCertificates: true }, true],
  ])("DPoP is not required where %s", async (_what, options, certificates) => {
    expect((await aVerifier({ audience, ...options })).resourceMetadata?.document).toMatchObject({
      dpop_bound_access_tokens_required: false,
      tls_client_certificate_bound_access_tokens: certificates,
    });
  });

  test("an audience that is no URL of the web has none, and no challenge names one", async () => {
    const verifier = await aVerifier({ audience: "urn:tickets", publicUrl: "https://tickets.test" });
    expect(verifier.resourceMetadata).toBeUndefined();
    const { server, origin } = await listening();
    const serve = serveMetadata(verifier);
    const guard = protect(verifier, () => ({ action: "read", resource: "tickets" }));
    server.on("request", (request, response) =>
      serve(request, response, () => void guard(request, response, () => {})),
    );
    const refused = await fetch(`${origin}/.well-known/oauth-protected-resource`);
    expect(refused.status).toBe(401);
    expect(refused.headers.get("www-authenticate")).not.toContain("resource_metadata");
  });
});
