import type { JsonWebKey } from "node:crypto";
import { TASK_DETAILS } from "../src/issuers/registry.ts";
import { tokenFor } from "./support/call.ts";
import { startHelper } from "./support/child.ts";
import { checkToken, makeClients, peerSideOf } from "./support/clients.ts";
import { cpuTimes } from "./support/cpu.ts";
import { checkLedger } from "./support/ledger.ts";
import type { BenchOptions } from "./support/options.ts";
import { round } from "./support/report.ts";
import { proverOf } from "./support/requests.ts";
import { measure, type Side } from "./support/rounds.ts";
import { type Seeded, seed } from "./support/seed.ts";
import { type Server, startServer } from "./support/server.ts";

/** More requests a second than either side can answer here: each needs an assertion and a proof of its own. */
const FRESH_PER_SECOND = 3_000;

/**
 * `/oauth/token` with `private_key_jwt` and DPoP, and node-oidc-provider's beside it in the same run: three signatures are
 * made or verified for each answer on both sides. Ours consumes assertion and proof in Postgres and demands nonces.
 */
export async function benchToken(options: BenchOptions): Promise<object> {
  await using load = startHelper("load.ts");
  await using peer = startHelper("peer.ts");
  const fresh = FRESH_PER_SECOND * options.seconds;
  const clients = makeClients();
  const theirs = await peerSideOf(peer, { clients, format: options.peerToken, fresh, dpop: true });
  await using server = await startServer(options);
  const seeded = await seed(server, { clients });
  const asked = clients.map(({ clientId, kid, jwk, proofKey }, index) => ({
    clientId,
    kid,
    jwk,
    proofKey,
    form: {
      resource: seeded.apiAudience,
      authorization_details: JSON.stringify([
        {
          type: TASK_DETAILS,
          task_id: seeded.callers[index]?.taskId,
          actions: ["read"],
          resources: [seeded.resource],
        },
      ]),
    },
  }));
  const ours: Side = {
    name: "token",
    port: server.port,
    recipe: async () => ({
      kind: "client_credentials",
      host: new URL(server.url).host,
      path: "/oauth/token",
      issuer: seeded.audience,
      clients: asked,
      nonce: await nonceOf(server, seeded, clients[0]?.proofKey ?? {}),
      fresh,
    }),
    check: (body) => checkToken(body, true),
    cpu: () => cpuTimes(server),
  };
  const [token, other] = await measure(load, [ours, theirs], options);
  if (token === undefined || other === undefined) throw new Error("two sides were measured");
  await checkLedger(seeded, token.answered);
  return {
    bench: "token",
    per_s: round(token.perSecond),
    peer_per_s: round(other.perSecond),
    ratio: round(token.perSecond / other.perSecond, 2),
    p99_ms: round(token.p99, 1),
  };
}

/** The nonce that the server wants now: asked for as a client does, with a proof that has none. */
async function nonceOf(server: Server, seeded: Seeded, proofKey: JsonWebKey): Promise<string> {
  const prove = proverOf(proofKey, { host: new URL(server.url).host, path: "/oauth/token" });
  const answer = await fetch(`${server.url}/oauth/token`, {
    method: "POST",
    headers: { authorization: `Bearer ${tokenFor(seeded, seeded.callers[0]?.sub ?? "")}`, DPoP: prove() },
    body: new URLSearchParams({ grant_type: "client_credentials" }),
  });
  const nonce = answer.headers.get("dpop-nonce");
  if (nonce === null) throw new Error(`no nonce: ${answer.status} ${await answer.text()}`);
  return nonce;
}
