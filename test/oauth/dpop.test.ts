import { randomUUID } from "node:crypto";
import { expect, test } from "@jest/globals";
import { calculateJwkThumbprint, decodeJwt, exportJWK, generateKeyPair, SignJWT } from "jose";
import { TASK_DETAILS } from "../../src/issuers/registry.ts";
import { type Answer, startApp } from "../support/app.ts";
import { seed } from "../support/seed.ts";
import { openTask } from "./harness.ts";

const ROUNDS = 20;

test("a token for who proves a key is bound to it, once per proof, of 50 at the same moment", async () => {
  await using app = await startApp();
  const s = await seed(app.broker, app.idp);
  const { privateKey, publicKey } = await generateKeyPair("ES256");
  const jwk = await exportJWK(publicKey);
  const form = new URLSearchParams({
    grant_type: "client_credentials",
    resource: "https://tickets.test/api",
    authorization_details: JSON.stringify([
      { type: TASK_DETAILS, task_id: await openTask(app, s), actions: ["read"], resources: ["tickets"] },
    ]),
  }).toString();
  const caller = await app.token({ sub: s.agentSub });
  let nonce = "";
  const proof = (): Promise<string> =>
    new SignJWT({ jti: randomUUID(), htm: "POST", htu: `${app.api.url}/oauth/token`, nonce })
      .setProtectedHeader({ alg: "ES256", typ: "dpop+jwt", jwk })
      .setIssuedAt()
      .sign(privateKey);
  const ask = (sent: string): Promise<Answer> =>
    app.call(caller, "POST", "/oauth/token", form, {
      "content-type": "application/x-www-form-urlencoded",
      dpop: sent,
    });

  const challenged = await ask(await proof());
  expect([challenged.status, challenged.body.error]).toEqual([400, "use_dpop_nonce"]);
  nonce = challenged.headers.get("dpop-nonce") ?? "";

  const bearer = await app.call(caller, "POST", "/oauth/token", form, {
    "content-type": "application/x-www-form-urlencoded",
  });
  expect(bearer.body.token_type).toBe("Bearer");
  expect(decodeJwt(bearer.body.access_token)).not.toHaveProperty("cnf");

  for (let round = 0; round < ROUNDS; round += 1) {
    const one = await proof();
    const answers = await Promise.all(Array.from({ length: 50 }, () => ask(one)));
    const granted = answers.filter(({ status }) => status === 200);
    expect(granted).toHaveLength(1);
    expect(answers.filter(({ body }) => body.error === "invalid_dpop_proof")).toHaveLength(49);
    const [{ body, headers } = bearer] = granted;
    expect(body.token_type).toBe("DPoP");
    expect(decodeJwt(body.access_token)).toMatchObject({ cnf: { jkt: await calculateJwkThumbprint(jwk) } });
    nonce = headers.get("dpop-nonce") ?? "";
  }
  const { jti } = decodeJwt((await ask(await proof())).body.access_token);
  const auditor = await app.token({ sub: "auditor" });
  expect((await app.call(auditor, "GET", `/v1/credentials/${jti}`)).body).toMatchObject({ binding: "dpop" });
});
