import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import * as oauth from "oauth4webapi";
import * as openid from "openid-client";
import { TASK_DETAILS } from "../../src/issuers/registry.ts";
import { newId } from "../../src/lib/ids.ts";
import { type App, startApp } from "../support/app.ts";
import { type Seeded, seed } from "../support/seed.ts";
import { openTask, type RegisteredClient, registerClient } from "./harness.ts";

const RESOURCE = "https://tickets.test/api";

let app: App;
let s: Seeded;
let client: RegisteredClient;
let issuer: string;

beforeAll(async () => {
  app = await startApp();
  s = await seed(app.broker, app.idp);
  client = await registerClient(app, s, "reporter");
  issuer = app.broker.issuerUrl("default");
  // It looks at its own tokens, so it must be a tool of their target too.
  await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
    tx
      .insertInto("relationships")
      .values({
        tenant_id: s.tenantId,
        id: newId("relationship"),
        subject: s.agentId,
        relation: "serves",
        object: s.targetId,
      })
      .execute(),
  );
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
});

const details = (taskId: string): string =>
  JSON.stringify([{ type: TASK_DETAILS, task_id: taskId, actions: ["read"], resources: ["tickets"] }]);

describe("oauth4webapi, which is not ours", () => {
  const http = { [oauth.allowInsecureRequests]: true };
  const self = (): oauth.Client => ({ client_id: client.clientId });
  const authenticate = (): oauth.ClientAuth => oauth.PrivateKeyJwt({ key: client.privateKey, kid: client.kid });
  const discover = async (): Promise<oauth.AuthorizationServer> => {
    const url = new URL(issuer);
    return oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url, { algorithm: "oauth2", ...http }));
  };
  const tokenFor = async (as: oauth.AuthorizationServer, taskId: string): Promise<oauth.TokenEndpointResponse> => {
    const form = { resource: RESOURCE, authorization_details: details(taskId) };
    const answer = await oauth.clientCredentialsGrantRequest(as, self(), authenticate(), form, http);
    return oauth.processClientCredentialsResponse(as, self(), answer);
  };
  const introspected = async (
    as: oauth.AuthorizationServer,
    token: string,
    signed = false,
  ): Promise<oauth.IntrospectionResponse> => {
    const options = { requestJwtResponse: signed, ...http };
    const answer = await oauth.introspectionRequest(as, self(), authenticate(), token, options);
    expect(answer.headers.get("content-type")).toBe(
      signed ? "application/token-introspection+jwt" : "application/json; charset=utf-8",
    );
    const said = await oauth.processIntrospectionResponse(as, self(), answer);
    if (signed) await oauth.validateApplicationLevelSignature(as, answer, http);
    return said;
  };

  test("discovers, gets a token for a task, validates it, and revokes it", async () => {
    const as = await discover();
    const taskId = await openTask(app, s);
    const { access_token: token, ...rest } = await tokenFor(as, taskId);
    expect(rest).toMatchObject({
      token_type: "bearer",
      expires_in: expect.any(Number),
      authorization_details: [{ type: TASK_DETAILS, task_id: taskId, locations: [RESOURCE], actions: ["read"] }],
    });
    const request = new Request(RESOURCE, { headers: { authorization: `Bearer ${token}` } });
    const claims = await oauth.validateJwtAccessToken(as, request, RESOURCE, http);
    expect(claims).toMatchObject({ iss: issuer, sub: s.agentId, client_id: s.agentId });

    expect(await introspected(as, token)).toMatchObject({ active: true, jti: claims.jti });
    expect(await introspected(as, token, true)).toMatchObject({ active: true, jti: claims.jti });
    await oauth.processRevocationResponse(await oauth.revocationRequest(as, self(), authenticate(), token, http));
    expect(await introspected(as, token)).toEqual({ active: false });
    expect(await introspected(as, token, true)).toEqual({ active: false });
    // RFC 7009 §2.2: a token that is no longer one is no error.
    await oauth.processRevocationResponse(await oauth.revocationRequest(as, self(), authenticate(), token, http));
  });

  test("gets a token that is bound to its key, with the nonce that it is given (RFC 9449)", async () => {
    const as = await discover();
    const form = { resource: RESOURCE, authorization_details: details(await openTask(app, s)) };
    const keyPair = await oauth.generateKeyPair("ES256");
    const dpop = oauth.DPoP(self(), keyPair);
    const request = async (): Promise<oauth.TokenEndpointResponse> =>
      oauth.processClientCredentialsResponse(
        as,
        self(),
        await oauth.clientCredentialsGrantRequest(as, self(), authenticate(), form, { DPoP: dpop, ...http }),
      );
    const first = await request().catch((error: unknown) => error);
    expect(oauth.isDPoPNonceError(first)).toBe(true);
    const { access_token: token, token_type: type } = await request();
    expect(type).toBe("dpop");
    expect(await introspected(as, token)).toMatchObject({
      active: true,
      token_type: "DPoP",
      cnf: { jkt: await dpop.calculateThumbprint() },
    });
  });

  test("is told that the task is over, as access_denied with the reason (invariant 1)", async () => {
    const as = await discover();
    const taskId = await openTask(app, s);
    const ended = await app.call(await app.token({ sub: "orchestrator" }), "POST", `/v1/tasks/${taskId}/end`, {
      outcome: "completed",
    });
    expect(ended.status).toBe(200);
    await expect(tokenFor(as, taskId)).rejects.toMatchObject({
      error: "access_denied",
      status: 400,
      cause: { reasons: [{ code: "task_not_open" }] },
    });
  });
});

test("openid-client discovers, gets tokens by private_key_jwt, with and without DPoP, introspects and revokes", async () => {
  const config = await openid.discovery(
    new URL(issuer),
    client.clientId,
    undefined,
    openid.PrivateKeyJwt({ key: client.privateKey, kid: client.kid }),
    { algorithm: "oauth2", execute: [openid.allowInsecureRequests] },
  );
  const taskId = await openTask(app, s);
  const form = { resource: RESOURCE, authorization_details: details(taskId) };
  const { access_token: token } = await openid.clientCredentialsGrant(config, form);
  expect(token.split(".")).toHaveLength(3);
  const DPoP = openid.getDPoPHandle(config, await openid.randomDPoPKeyPair());
  const bound = await openid.clientCredentialsGrant(config, form, { DPoP });
  expect(bound.token_type).toBe("dpop");
  await openid.tokenRevocation(config, token);
  expect(await openid.tokenIntrospection(config, token)).toEqual({ active: false });
});
