import { mintMany, tokenFor } from "./support/call.ts";
import { startHelper } from "./support/child.ts";
import { cpuTimes } from "./support/cpu.ts";
import type { BenchOptions } from "./support/options.ts";
import { round } from "./support/report.ts";
import { measure, mintSide, type Side } from "./support/rounds.ts";
import { seed } from "./support/seed.ts";
import { startServer } from "./support/server.ts";

/** Distinct tokens that are asked about. */
const TOKENS = 512;

/** Introspection by a tool that serves the target, with mints beside it in the same run. Every answer is `active: true`. */
export async function benchIntrospect(options: BenchOptions): Promise<object> {
  await using load = startHelper("load.ts");
  await using server = await startServer(options);
  const seeded = await seed(server);
  const minted = await mintMany<{ access_token: string }>(server, seeded, {
    count: TOKENS,
    target: seeded.targets.jwt,
    ttl: 300,
  });
  const introspection: Side = {
    name: "introspect",
    port: server.port,
    recipe: () => ({
      kind: "introspect",
      host: new URL(server.url).host,
      callerToken: tokenFor(seeded, seeded.toolSub),
      tokens: minted.map(({ secret }) => secret.access_token),
    }),
    check(body) {
      if (!(JSON.parse(body) as { active: boolean }).active) throw new Error(`not alive: ${body}`);
    },
    cpu: () => cpuTimes(server),
  };
  const [asked, mint] = await measure(
    load,
    [introspection, mintSide(server, seeded, { ttl: options.ttl, fresh: 0 })],
    options,
  );
  if (asked === undefined || mint === undefined) throw new Error("two sides were measured");
  return {
    bench: "introspect",
    per_s: round(asked.perSecond),
    mints_per_s: round(mint.perSecond),
    ratio_to_mint: round(asked.perSecond / mint.perSecond, 2),
    p99_ms: round(asked.p99, 1),
  };
}
