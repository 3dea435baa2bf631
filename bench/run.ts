import { parseArgs } from "node:util";
import { benchDeath } from "./death.ts";
import { benchFaults } from "./faults.ts";
import { benchIntrospect } from "./introspect.ts";
import { benchKill } from "./kill.ts";
import { benchMint } from "./mint.ts";
import { benchPostgres } from "./postgres.ts";
import { benchRefusal } from "./refusal.ts";
import { benchSoak } from "./soak.ts";
import { benchStatus } from "./status.ts";
import type { BenchOptions } from "./support/options.ts";
import { machine } from "./support/report.ts";
import { benchToken } from "./token.ts";
import { benchVerify } from "./verify.ts";

const USAGE = `npm run bench -- <name> [options]

  mint         JWT mints over HTTP, beside node-oidc-provider's client_credentials
  token        /oauth/token with private_key_jwt and DPoP, beside node-oidc-provider's
  introspect   token introspection, beside mints
  postgres     role mints, and revocations up to the proof
  status       packing and signing a status list of 2^20 tokens
  death        how long after its end a credential is proven dead (--issuer jwt|postgres, --n)
  kill         the kill of an agent with credentials at five PostgreSQL targets (--n)
  faults       every fault of every far side in every call, and kill -9 at every step (--issuer KIND, --rounds)
  refusal      from a revoke to the refusal of a client, for each kind of issuer (--issuer KIND, --rounds)
  soak         lifecycles with a fault every 20 s (--minutes); the invariants each minute
  verify       what the verification kit adds to a call of an API; from a revocation to the refusal

  --seconds N      length of a round (default 5)
  --rounds N       measured rounds of each side; of the fault matrices (default 4)
  --connections N  HTTP connections of the load generator (default 32)
  --ttl N          seconds that minted credentials live (mint; default 300). A short one adds their expiry to the load.
  --single-use     callers' tokens are accepted once, and each is fresh (mint)
  --peer-token F   what node-oidc-provider gives (mint): jwt (default) or opaque
  --n N            death: how many credentials end in one second (default 2000, postgres 200); kill: how many (200)
  --issuer KIND    death: jwt (default) or postgres; faults and refusal: only this kind (default all)
  --minutes N      soak: how long (default 30)
  --queue Q        soak: postgres (default), or redis, which needs redis-server on the PATH
  --profile        also: where the server process spends its time, by function
`;

const benches: Readonly<Record<string, (options: BenchOptions) => Promise<object>>> = {
  mint: benchMint,
  token: benchToken,
  introspect: benchIntrospect,
  postgres: benchPostgres,
  status: benchStatus,
  death: benchDeath,
  kill: benchKill,
  faults: benchFaults,
  refusal: benchRefusal,
  soak: benchSoak,
  verify: benchVerify,
};

function whole(text: string, name: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new Error(`--${name} must be a whole number above 0`);
  return value;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seconds: { type: "string", default: "5" },
      rounds: { type: "string", default: "4" },
      connections: { type: "string", default: "32" },
      ttl: { type: "string", default: "300" },
      "single-use": { type: "boolean", default: false },
      "peer-token": { type: "string", default: "jwt" },
      issuer: { type: "string" },
      n: { type: "string" },
      queue: { type: "string", default: "postgres" },
      minutes: { type: "string", default: "30" },
      profile: { type: "boolean", default: false },
    },
  });
  const bench = positionals.length === 1 ? benches[positionals[0] ?? ""] : undefined;
  if (bench === undefined) {
    console.error(USAGE);
    process.exitCode = 2;
    return;
  }
  console.log(machine());
  const result = await bench({
    seconds: whole(values.seconds, "seconds"),
    rounds: whole(values.rounds, "rounds"),
    connections: whole(values.connections, "connections"),
    ttl: whole(values.ttl, "ttl"),
    singleUse: values["single-use"],
    peerToken: values["peer-token"] === "opaque" ? "opaque" : "jwt",
    issuer: values.issuer,
    n: values.n === undefined ? undefined : whole(values.n, "n"),
    queue: values.queue === "redis" ? "redis" : "postgres",
    minutes: whole(values.minutes, "minutes"),
    profile: values.profile,
  });
  console.log(JSON.stringify(result));
}

// Ends by itself when everything that was opened is closed: an ending that hangs is a leak to be found.
await main();
