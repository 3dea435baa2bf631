import { createHash, createSign, generateKeyPairSync, type KeyObject, randomUUID } from "node:crypto";
import { setImmediate as nextTurn } from "node:timers/promises";
import { calculateJwkThumbprint, type JWK } from "jose";
import { type Call, createVerifier } from "../src/verify/index.ts";
import { startBalancer } from "../test/support/balancer.ts";
import { AUDIENCE, startBroker, TOOL_TOKEN } from "../test/verify/broker.ts";
import { type TimeToRefusal, timesToRefusal } from "../test/verify/time-to-refusal.ts";
import { measureList } from "./status.ts";
import { mintMany, post, tokenFor } from "./support/call.ts";
import type { BenchOptions } from "./support/options.ts";
import { median, percentile, round, table } from "./support/report.ts";
import { seed } from "./support/seed.ts";
import { startReplica, startServer } from "./support/server.ts";

/** Calls of one round for each second that a round is asked to last: about as many as are verified in it. */
const CALLS_PER_SECOND = 1_000;
/** Tokens that are in use: agents call again and again with theirs. */
const TOKENS = 64;
/** Tokens of this API that were revoked and are not over. */
const REVOKED = 1_000;
/** Of a status list: more than we expect anybody to revoke before it expires. */
const REVOKED_SHARE = 0.01;
const REVOCATIONS = 500;
const LANES = 8;
const URL_OF_CALL = `${AUDIENCE}/tickets/7`;

interface Round {
  readonly microseconds: number;
  readonly cpuMicroseconds: number;
}

/** What verifies a call; the bare side only looks at it. */
type Handle = (call: Call) => Promise<unknown>;

/**
 * What `verify()` adds to a call: a DPoP-bound token, a fresh proof for every call, its status by the stream. Beside it, in
 * turn, the same calls handed to a function that does nothing. One call at a time, so it is what a caller waits longer; and
 * 32 at a time, as a busy API does. Proofs are made before the clock starts, and every call must be let in.
 */
export async function benchVerify({ seconds, rounds, profile }: BenchOptions): Promise<object> {
  await using broker = await startBroker();
  for (let index = 0; index < REVOKED; index += 1) broker.setStatus(`crd_revoked_${index}`, 1);
  const options = { issuer: broker.issuer, audience: AUDIENCE, authorization: () => TOOL_TOKEN };
  const verifier = await createVerifier(options);
  const callers = await Promise.all(
    Array.from({ length: TOKENS }, async () => {
      const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
      const jwk = publicKey.export({ format: "jwk" }) as JWK;
      return {
        jwk,
        privateKey,
        token: await broker.mint({ claims: { cnf: { jkt: await calculateJwkThumbprint(jwk) } } }),
      };
    }),
  );
  const callsOf = async (count: number): Promise<Call[]> => {
    const calls: Call[] = [];
    for (let index = 0; index < count; index += 1) {
      const caller = callers[index % callers.length];
      if (caller !== undefined) calls.push(callOf(caller));
      await nextTurn();
    }
    return calls;
  };
  const bare: Handle = async (call) => call.headers;
  const sides = { bare, verify: verifier.verify };
  const done: Record<string, Round[]> = {};
  for (let number = 0; number <= rounds; number += 1) {
    for (const [name, handle] of Object.entries(sides)) {
      for (const width of [1, 32]) {
        const measured = await run(await callsOf(CALLS_PER_SECOND * seconds), handle, width);
        // The first round is for compilers and caches.
        if (number > 0) (done[`${name}, ${width} at a time`] ??= []).push(measured);
      }
    }
  }
  if (verifier.state().stream !== "connected") throw new Error("the status did not come by the stream");
  await verifier.close();
  const of = (name: string): number => median((done[name] ?? []).map(({ microseconds }) => microseconds));
  table(
    ["", "µs per call", "µs of CPU"],
    Object.entries(done).map(([name, all]) => [
      name,
      round(of(name), 1),
      round(median(all.map(({ cpuMicroseconds }) => cpuMicroseconds)), 1),
    ]),
  );
  return {
    bench: "verify",
    us_per_call: round(of("verify, 1 at a time") - of("bare, 1 at a time"), 1),
    status_list_ms: await statusListMs(),
    refusal_ms: await refusalMs(profile),
  };
}

/** How long a list of 2^20 tokens takes to pack, compress and sign, in milliseconds. */
async function statusListMs(): Promise<number> {
  const { revoked, ms, best_ms: best, bytes } = await measureList(REVOKED_SHARE);
  console.log(
    `a status list of 2^20 tokens, ${revoked} of them revoked (${REVOKED_SHARE * 100} %): ${bytes} bytes signed`,
  );
  console.log(`  median ${ms} ms, best ${best} ms\n`);
  return ms;
}

/**
 * From asking for a revocation to the first call that is refused, by the stream of a real broker of two API processes: the
 * tool listens to the one that is not asked to revoke. Half of them the other way round. The time that the revocation itself
 * takes is in it, because the commit lies somewhere within.
 */
async function refusalMs(profile: boolean): Promise<Record<"p50" | "p99" | "max", number>> {
  await using balancer = await startBalancer();
  await using server = await startServer({ profile, publicUrl: balancer.url });
  await using replica = await startReplica(server);
  const seeded = await seed(server);
  const times: TimeToRefusal[] = [];
  for (const [listensTo, revokesAt] of [
    [replica, server],
    [server, replica],
  ] as const) {
    balancer.serve(listensTo.port);
    const verifier = await createVerifier({
      issuer: seeded.audience,
      audience: seeded.apiAudience,
      authorization: () => `Bearer ${tokenFor(seeded, seeded.toolSub)}`,
      // The seeded callers are bearers; how a token is bound has no part in how its revocation is heard of.
      allowBearer: true,
    });
    try {
      if (verifier.state().stream !== "connected") throw new Error("there is no status stream");
      const minted = await mintMany<{ access_token: string }>(server, seeded, {
        count: REVOCATIONS / 2,
        target: seeded.targets.jwt,
        ttl: 300,
      });
      const living = minted.map(({ credential: { id }, secret: { access_token: token } }) => {
        const call = { method: "GET", url: seeded.apiAudience, headers: { authorization: `Bearer ${token}` } };
        return { id, call: () => call };
      });
      const orchestrator = tokenFor(seeded, seeded.orchestratorSub);
      const at = { url: `http://127.0.0.1:${revokesAt.port}` };
      const revoke = async (id: string): Promise<void> => {
        await post(at, orchestrator, `/v1/credentials/${id}/revoke`, {});
      };
      times.push(...(await timesToRefusal(verifier, living, revoke, LANES)));
    } finally {
      await verifier.close();
    }
  }
  const sorted = (name: keyof TimeToRefusal): number[] => times.map((time) => time[name]).toSorted((a, b) => a - b);
  const [asked, answered] = [sorted("sinceAsked"), sorted("sinceAnswered")];
  const figures = (all: readonly number[]): Record<"p50" | "p99" | "max", number> => ({
    p50: round(percentile(all, 0.5), 1),
    p99: round(percentile(all, 0.99), 1),
    max: round(percentile(all, 1), 1),
  });
  console.log(
    `${times.length} revocations, ${LANES} at a time, two API processes; a call every 5 ms until it is refused:`,
  );
  table(
    ["", "p50 ms", "p99 ms", "max ms"],
    Object.entries({
      "since the revocation was asked for": figures(asked),
      "since its answer arrived (0: before it)": figures(answered),
    }).map(([name, { p50, p99, max }]) => [name, p50, p99, max]),
  );
  return figures(asked);
}

async function run(calls: readonly Call[], handle: Handle, width: number): Promise<Round> {
  const work = calls.values();
  const [cpu, start] = [process.cpuUsage(), performance.now()];
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (const call of work) {
        // In an API every call comes from a socket. Without this turn nothing else would: the stream would fall silent.
        await nextTurn();
        await handle(call);
      }
    }),
  );
  const microseconds = ((performance.now() - start) * 1000) / calls.length;
  const { user, system } = process.cpuUsage(cpu);
  return { microseconds, cpuMicroseconds: (user + system) / calls.length };
}

function callOf({ jwk, privateKey, token }: { jwk: JWK; privateKey: KeyObject; token: string }): Call {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = {
    jti: randomUUID(),
    htm: "GET",
    htu: URL_OF_CALL,
    iat: Math.floor(Date.now() / 1000),
    ath: createHash("sha256").update(token).digest("base64url"),
  };
  const text = `${part({ typ: "dpop+jwt", alg: "ES256", jwk })}.${part(claims)}`;
  const signature = createSign("sha256").update(text).sign({ key: privateKey, dsaEncoding: "ieee-p1363" });
  const dpop = `${text}.${signature.toString("base64url")}`;
  return {
    method: "GET",
    url: URL_OF_CALL,
    headers: { host: "tickets.test", accept: "*/*", authorization: `DPoP ${token}`, dpop },
  };
}
