import { startHelper } from "./support/child.ts";
import { makeClients, peerSideOf } from "./support/clients.ts";
import { checkLedger } from "./support/ledger.ts";
import type { BenchOptions } from "./support/options.ts";
import { round } from "./support/report.ts";
import { measure, mintSide } from "./support/rounds.ts";
import { seed } from "./support/seed.ts";
import { startServer } from "./support/server.ts";

/** More requests a second than either side can answer here: each of the peer's needs a fresh assertion. */
const FRESH_PER_SECOND = 5_000;

/**
 * JWT mints over HTTP against one `mayfly serve` process, with node-oidc-provider's `client_credentials` beside it in
 * the same run: `private_key_jwt` in, an ES256 access token out, in memory and without policy, audit or revocation.
 */
export async function benchMint(options: BenchOptions): Promise<object> {
  await using load = startHelper("load.ts");
  await using peer = startHelper("peer.ts");
  const fresh = FRESH_PER_SECOND * options.seconds;
  const peerSide = await peerSideOf(peer, { clients: makeClients(), format: options.peerToken, fresh, dpop: false });
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
