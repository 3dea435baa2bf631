import { randomBytes, randomUUID } from "node:crypto";
import { expect, test } from "@jest/globals";
import { SignJWT } from "jose";
import { startApp } from "../support/app.ts";
import { seed } from "../support/seed.ts";
import { registerClient } from "./harness.ts";

const ROUNDS = 100;

test("T-3.3: a client assertion works once, of 50 at the same moment, over two APIs", async () => {
  // One issuer, whoever answers.
  const env = { MAYFLY_PUBLIC_URL: "http://127.0.0.1:1", MAYFLY_KEK: randomBytes(32).toString("base64url") };
  await using one = await startApp({ env });
  await using other = await startApp({ env, database: one.database });
  const s = await seed(one.broker, one.idp);
  const client = await registerClient(one, s, "reporter");
  for (let round = 0; round < ROUNDS; round += 1) {
    const now = Math.floor(Date.now() / 1000);
    const assertion = await new SignJWT({
      iss: client.clientId,
      sub: client.clientId,
      aud: one.broker.issuerUrl("default"),
      iat: now,
      exp: now + 60,
      jti: randomUUID(),
    })
      .setProtectedHeader({ alg: "ES256", kid: client.kid })
      .sign(client.privateKey);
    const form = new URLSearchParams({
      token: "no token",
      client_assertion: assertion,
      client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }).toString();
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, index) =>
        (index % 2 === 0 ? one : other).call(null, "POST", "/oauth/introspect", form, {
          "content-type": "application/x-www-form-urlencoded",
        }),
      ),
    );
    const statuses = answers.map(({ status }) => status);
    expect(statuses.filter((status) => status === 200)).toHaveLength(1);
    // 429: an address that fails so often is heard less.
    expect(statuses.filter((status) => status !== 200 && status !== 401 && status !== 429)).toEqual([]);
  }
});
