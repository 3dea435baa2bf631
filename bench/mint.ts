import { generateKeyPairSync } from "node:crypto";
import { type Helper, startHelper } from "./support/child.ts";
import { checkLedger } from "./support/ledger.ts";
import type { BenchOptions } from "./support/options.ts";
import type { StartPeer } from "./support/peer.ts";
import { round } from "./support/report.ts";
import { helperCpu, measure, mintSide, type Side } from "./support/rounds.ts";
import { seed } from "./support/seed.ts";
import { startServer } from "./support/server.ts";

/** More requests a second than either side can answer here: each of the peer's needs a fresh assertion. */
const FRESH_PER_SECOND = 5_000;
const CLIENTS = 16;

/**
 * JWT mints over HTTP against one `mayfly serve` process, with node-oidc-provider's `client_credentials` beside it in
 * the same run: `private_key_jwt` in, an ES256 access token out, in memory and without policy, audit or revocation.
 */
export async function benchMint(options: BenchOptions): Promise<object> {
  await using load = startHelper("load.ts");
  await using peer = startHelper("peer.ts");
  const fresh = FRESH_PER_SECOND * options.seconds;
  const peerSide = await startPeer(peer, options.peerToken, fresh);
  await using server = await startServer(options);
  const seeded = await seed(server, { singleUse: options.singleUse });
  const ours = mintSide(server, seeded, { ttl: options.ttl, fresh: options.singleUse ? fresh : 0 });
  const [mint, other] = await measure(load, [ours, peerSide], options);
  if (mint === undefined || other === undefined) throw new Error("two sides were measured");
  await checkLedger(seeded, mint.answered);
  return {
    bench: "mint",
    mints_per_s: round(mint.perSecond),
    peer_per_s: round(other.perSecond),
    ratio: round(mint.perSecond / other.perSecond, 2),
    p50_ms: round(mint.p50, 1),
    p99_ms: round(mint.p99, 1),
  };
}

async function startPeer(peer: Helper, format: StartPeer["format"], fresh: number): Promise<Side> {
  const clients = Array.from({ length: CLIENTS }, (_, index) => {
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const kid = `client-key-${index}`;
    const publicJwk = { ...publicKey.export({ format: "jwk" }), kid, alg: "ES256", use: "sig" };
    return { clientId: `client-${index}`, kid, jwk: privateKey.export({ format: "jwk" }), publicJwk };
  });
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const { port } = await peer.ask<{ port: number }>({
    clients: clients.map(({ clientId, publicJwk }) => ({ clientId, jwk: publicJwk })),
    signingKey: { ...privateKey.export({ format: "jwk" }), kid: "signing", alg: "ES256", use: "sig" },
    format,
  } satisfies StartPeer);
  const host = `127.0.0.1:${port}`;
  return {
    name: "node-oidc-provider",
    port,
    recipe: () => ({ kind: "client_credentials", host, issuer: `http://${host}`, clients, fresh }),
    check(body) {
      const { access_token: token } = JSON.parse(body) as { access_token?: string };
      if (token === undefined) throw new Error(`not a token: ${body}`);
    },
    cpu: helperCpu("node-oidc-provider", peer),
  };
}
