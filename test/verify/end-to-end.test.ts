import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { decodeProtectedHeader } from "jose";
import { TTL_SECONDS } from "../../src/status/status-list.ts";
import { systemClock } from "../../src/verify/clock.ts";
import { AccessRefused, type Call, type Verifier } from "../../src/verify/index.ts";
import type { MayflyProcess } from "../support/processes.ts";
import { until } from "../support/until.ts";
import { AUDIENCE } from "./broker.ts";
import { URL_OF_CALL } from "./caller.ts";
import { type Held, type Holder, portOf, type Replicas, startReplicas } from "./replicas.ts";
import { type Living, timesToRefusal } from "./time-to-refusal.ts";

const REVOCATIONS = 500;
const LANES = 8;
const TURNS = 2;
const PER_TURN = 20;

let r: Replicas;
beforeAll(async () => {
  r = await startReplicas();
});
afterAll(async () => {
  await r[Symbol.asyncDispose]();
});

/** The code with which a call is refused; undefined when it is let in. */
async function refusalOf(verifier: Verifier, call: Promise<Call> | Call): Promise<string | undefined> {
  try {
    await verifier.verify(await call);
    return undefined;
  } catch (error) {
    if (error instanceof AccessRefused) return error.code;
    throw error;
  }
}

const isRevoked = (verifier: Verifier, one: Living): Promise<boolean> =>
  until(`${one.id} is refused as revoked`, async () => (await refusalOf(verifier, one.call())) === "token_revoked");

describe("a tool with the kit, two API processes and a worker", () => {
  test("lets a good call in, and the broker has its report", async () => {
    const verifier = await r.verifier([r.a, r.b]);
    expect(verifier.state()).toMatchObject({ stream: "connected" });
    const held = await (await r.holder()).mint(r.b);
    const access = await verifier.verify(await held.call());
    access.require({ action: "read", resource: "tickets" });
    expect(() => access.require({ action: "write", resource: "tickets" })).toThrow("insufficient_scope");
    access.used({ action: "read", resource: "tickets", outcome: "allowed" });
    access.used({ action: "write", resource: "tickets", outcome: "refused" });
    const uses = await until("both uses are in the ledger", async () => {
      const { body } = await r.call(r.b, "auditor", "GET", `/v1/credentials/${held.id}/uses`);
      return body.items.length === 2 && body.items;
    });
    for (const [action, outcome] of [
      ["read", "allowed"],
      ["write", "refused"],
    ])
      expect(uses).toContainEqual(
        expect.objectContaining({ action, outcome, resource: "tickets", reported_by: r.toolId, after_end: false }),
      );
    await until("they are known to have arrived", () => verifier.state().uses.waiting === 0);
    expect(verifier.state().uses.dropped).toBe(0);
  });

  test(`refuses each of ${REVOCATIONS} tokens that are revoked at the replica that it does not listen to`, async () => {
    const half = REVOCATIONS / 2;
    for (const [mine, other] of [
      [r.a, r.b],
      [r.b, r.a],
    ] as const) {
      const before = r.balancer.open(portOf(other));
      const verifier = await r.verifier([mine]);
      expect([verifier.state().stream, r.balancer.open(portOf(other))]).toEqual(["connected", before]);
      const holder = await r.holder();
      const living = await Promise.all(Array.from({ length: half }, () => holder.mint(other)));
      const spared = await holder.mint(mine);
      const times = await timesToRefusal(verifier, living, (id) => r.revoke(other, id), LANES);
      expect(times).toHaveLength(half);
      expect(await refusalOf(verifier, spared.call())).toBeUndefined();
    }
  });

  test.each<[string, (held: Held, holder: Holder) => readonly [path: string, who: string, body?: object]]>([
    ["its task ended", ({ taskId }) => [`/v1/tasks/${taskId}/end`, "orchestrator", { outcome: "completed" }]],
    ["its task is paused", ({ taskId }) => [`/v1/tasks/${taskId}/pause`, "orchestrator"]],
    [
      "its agent is suspended",
      (_, { agent }) => [`/v1/agents/${agent.agentId}/state`, "admin", { state: "suspended" }],
    ],
    [
      "the kill switch met it",
      (_, { agent }) => [
        "/v1/revocations",
        "orchestrator",
        { selector: { agent_id: agent.agentId }, reason: "a test of the switch" },
      ],
    ],
  ])("refuses a token when %s, and no other one", async (_what, end) => {
    const verifier = await r.verifier([r.a]);
    const [holder, other] = [await r.holder(), await r.holder()];
    const [held, spared] = [await holder.mint(r.b), await other.mint(r.b)];
    expect(await refusalOf(verifier, held.call())).toBeUndefined();
    const [path, who, body] = end(held, holder);
    await r.call(r.b, who, "POST", path, body);
    await isRevoked(verifier, held);
    expect([verifier.state().stream, await refusalOf(verifier, spared.call())]).toEqual(["connected", undefined]);
  });

  test("refuses what was minted from a token when that token is revoked, and not what it was minted from", async () => {
    const verifier = await r.verifier([r.a]);
    const [parent, child] = [await r.holder(), await r.holder()];
    const to = (holder: Holder, depth: number) => ({
      delegation: { max_depth: depth, allowed: [{ sub: holder.agent.agentId }] },
    });
    const top = await parent.mint(r.b, to(child, 2));
    const below = { ttl_seconds: 200, parent_credential_id: top.id };
    const middle = await child.mint(r.b, { ...below, ...to(child, 1) });
    const sibling = await child.mint(r.b, below);
    const lowest = await child.mint(r.b, { ttl_seconds: 100, parent_credential_id: middle.id });
    for (const one of [top, middle, sibling, lowest]) expect(await refusalOf(verifier, one.call())).toBeUndefined();
    await r.revoke(r.b, middle.id);
    for (const one of [middle, lowest]) await isRevoked(verifier, one);
    for (const one of [top, sibling]) expect(await refusalOf(verifier, one.call())).toBeUndefined();
    await r.revoke(r.b, top.id);
    for (const one of [top, sibling]) await isRevoked(verifier, one);
  });
});

describe("a tool that does not serve the target", () => {
  test("is told of nothing, which is not taken for nothing to tell: the status list decides, before and after", async () => {
    const told = r.problems.length;
    const other = await r.tool();
    const authorization = () => `Bearer ${other.token}`;
    const verifier = await r.verifier([r.a], { authorization, maxStatusAgeMs: 1_000 });
    const holder = await r.holder();
    const [good, first, second, third] = await Promise.all(Array.from({ length: 4 }, () => holder.mint(r.b)));
    if (!good || !first || !second || !third) throw new Error("four were minted");
    const stays = async (stream: "connected" | "down", one: Held): Promise<void> => {
      await until(`the stream is ${stream}`, () => verifier.state().stream === stream);
      expect(await refusalOf(verifier, one.call())).toBeUndefined();
      await r.revoke(r.b, one.id);
      await isRevoked(verifier, one);
      expect([verifier.state().stream, await refusalOf(verifier, good.call())]).toEqual([stream, undefined]);
    };
    await stays("down", first);
    expect(r.problems.slice(told)).toContainEqual(
      expect.objectContaining({ code: "stream_down", detail: expect.stringContaining("does not serve its target") }),
    );
    const relationship = await r.serve(other.id);
    await stays("connected", second);
    await r.fleet.sql("delete from mayfly.relationships where id = $1", [relationship]);
    await stays("down", third);
    for (const one of [first, second, third]) expect(await refusalOf(verifier, one.call())).toBe("token_revoked");
  });
});

describe("the keys of the issuer", () => {
  /** Makes every key older: what was to come in so many seconds is now. */
  const passTime = (seconds: number): Promise<unknown> =>
    r.fleet.sql(
      `set session_replication_role = replica;
       update mayfly.signing_keys set created_at = created_at - interval '${seconds} s',
         activated_at = activated_at - interval '${seconds} s', retired_at = retired_at - interval '${seconds} s',
         published_until = published_until - interval '${seconds} s';
       reset session_replication_role`,
    );
  const rotate = async (): Promise<number> =>
    (await r.call(r.b, "admin", "POST", "/v1/signing-keys/rotate", { purpose: "access_token" })).status;
  const kidOf = ({ token }: Held): string => decodeProtectedHeader(token).kid ?? "";

  test("rotate under load, and no token is refused by who read them before, between or after", async () => {
    const holder = await r.holder();
    const verifiers: Verifier[] = [];
    const minted: Held[] = [];
    let running = true;
    const lane = async (replica: MayflyProcess): Promise<void> => {
      while (running) {
        const held = await holder.mint(replica);
        for (const verifier of verifiers) expect(await refusalOf(verifier, held.call())).toBeUndefined();
        minted.push(held);
      }
    };
    verifiers.push(await r.verifier([r.a]));
    const lanes = [lane(r.a), lane(r.b)];
    try {
      for (let turn = 0; turn < TURNS; turn += 1) {
        // Knows the active key alone, and meets the next one in a token.
        verifiers.splice(0, verifiers.length, await r.verifier([r.a, r.b]));
        expect(await rotate()).toBe(202);
        // Knows both.
        verifiers.push(await r.verifier([r.b, r.a]));
        await passTime(400);
        const before = minted.length;
        await until("tokens of the old key", () => minted.length >= before + PER_TURN);
        expect(await rotate()).toBe(200);
        const kids = new Set(minted.map(kidOf));
        await until("tokens of the next key", () => minted.slice(-PER_TURN).every((held) => !kids.has(kidOf(held))));
        for (const held of minted.slice(before))
          for (const verifier of verifiers) expect(await refusalOf(verifier, held.call())).toBeUndefined();
      }
    } finally {
      running = false;
      await Promise.all(lanes);
    }
    expect(new Set(minted.map(kidOf)).size).toBe(TURNS + 1);
  });

  test("one that somebody else has: what it signed is refused, forgeries too, and what the next one signs is let in", async () => {
    const verifier = await r.verifier([r.a], { allowBearer: true });
    const holder = await r.holder();
    const old = await holder.mint(r.b);
    const { seeded, broker } = r.fleet;
    // What somebody makes who has the key: no credential in any ledger, so nobody can take it back.
    const signer = await broker.keys.signer(seeded.tenantId, "access_token");
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      iss: r.issuer,
      aud: AUDIENCE,
      sub: "agt_x",
      client_id: "agt_x",
      jti: "crd_x",
      iat: now,
      exp: now + 300,
    };
    const forged = signer.sign("at+jwt", claims);
    const forgery = (): Call => ({ method: "GET", url: URL_OF_CALL, headers: { authorization: `Bearer ${forged}` } });
    expect([kidOf(old), await refusalOf(verifier, old.call()), await refusalOf(verifier, forgery())]).toEqual([
      signer.kid,
      undefined,
      undefined,
    ]);
    const path = `/v1/signing-keys/${signer.kid}/compromised`;
    const { body } = await r.call(r.b, "admin", "POST", path, { reason: "found in a log" });
    await isRevoked(verifier, old);
    const next = await holder.mint(r.b);
    expect(kidOf(next)).toBe(body.active_kid);
    expect(await refusalOf(verifier, next.call())).toBeUndefined();
    // Whoever meets the next key has forgotten this one.
    expect(await refusalOf(verifier, forgery())).toBe("token_key_unknown");
    expect(await refusalOf(verifier, old.call())).toBe("token_key_unknown");
  });
});

// The last ones of this file: they end the replicas.
describe("when a replica is killed", () => {
  test("the stream goes on at the other one without a gap, and meanwhile nothing is refused or let in wrongly", async () => {
    // With a token of its own: the verifiers of the tests before connect again too.
    const tool = await r.tool();
    await r.serve(tool.id);
    const verifier = await r.verifier([r.a, r.b], { authorization: () => `Bearer ${tool.token}` });
    const holder = await r.holder();
    const [good, gone, going] = [await holder.mint(r.b), await holder.mint(r.b), await holder.mint(r.b)];
    await r.revoke(r.b, gone.id);
    await isRevoked(verifier, gone);
    const told = r.problems.length;
    await r.a.kill();
    await r.revoke(r.b, going.id);
    await until("the last one is refused too", async () => {
      expect(await refusalOf(verifier, good.call())).toBeUndefined();
      expect(await refusalOf(verifier, gone.call())).toBe("token_revoked");
      return (await refusalOf(verifier, going.call())) === "token_revoked";
    });
    await until("it is connected again", () => verifier.state().stream === "connected");
    expect(r.problems.slice(told).map(({ code }) => code)).toContain("stream_down");
    // From where it was, and not from the beginning.
    const streams = r.balancer
      .sent()
      .split("GET /status/events ")
      .filter((sent) => sent.includes(tool.token));
    expect(streams.at(-1)).toMatch(/^[^]*?last-event-id: \d+:\d+:[\d,]*\.[0-9a-f]{16}\r\n/i);
    expect(await refusalOf(verifier, good.call())).toBeUndefined();
  });

  test("and the other one too: what is known counts for as long as it may, then calls are refused until one is back", async () => {
    let later = 0;
    let stopped: number | undefined;
    const monotonicMs = (): number => (stopped ?? systemClock.monotonicMs()) + later;
    const clock = { wallMs: systemClock.wallMs, monotonicMs };
    const long = { maxStatusAgeMs: 60_000, clock };
    const short = { maxStatusAgeMs: 1_000 };
    const stranger = { authorization: () => "Bearer of-somebody" };
    const verifiers = {
      stream: await r.verifier([r.b], long),
      list: await r.verifier([r.b], { ...long, authorization: null }),
      listBecauseNoStream: await r.verifier([r.b], { ...long, ...stranger }),
      shortStream: await r.verifier([r.b], short),
      shortList: await r.verifier([r.b], { ...short, authorization: null }),
    };
    const every = Object.values(verifiers);
    expect(every.map((verifier) => verifier.state().stream)).toEqual(["connected", "off", "down", "connected", "off"]);
    const holder = await r.holder();
    const [good, gone] = [await holder.mint(r.b), await holder.mint(r.b)];
    await r.revoke(r.b, gone.id);
    for (const verifier of every) await isRevoked(verifier, gone);
    for (const verifier of every) expect(await refusalOf(verifier, good.call())).toBeUndefined();

    stopped = systemClock.monotonicMs();
    await r.b.kill();
    await until("the stream is down", () => verifiers.stream.state().stream === "down");
    // Of a second's age, and nobody to ask.
    for (const verifier of [verifiers.shortStream, verifiers.shortList])
      await until("it is too old", async () => (await refusalOf(verifier, good.call())) === "status_unavailable");
    const refused = await Promise.resolve(good.call())
      .then(verifiers.shortStream.verify)
      .catch((error: unknown) => error);
    expect(refused).toMatchObject({
      status: 503,
      headers: { "retry-after": "1" },
      detail: expect.stringMatching(/the last news is \d+ ms old, at most 1000 ms is accepted$/),
    });
    expect(await refusalOf(verifiers.shortStream, gone.call())).toBe("token_revoked");
    // Others, whose clock stands still, may believe it for longer: a list for its ttl, what the stream said for the bound.
    for (const verifier of every.slice(0, 3)) {
      expect(await refusalOf(verifier, good.call())).toBeUndefined();
      expect(await refusalOf(verifier, gone.call())).toBe("token_revoked");
    }
    later = TTL_SECONDS * 1000;
    expect(await refusalOf(verifiers.stream, good.call())).toBeUndefined();
    for (const verifier of [verifiers.list, verifiers.listBecauseNoStream])
      expect(await refusalOf(verifier, good.call())).toBe("status_unavailable");
    later = long.maxStatusAgeMs;
    expect(await refusalOf(verifiers.stream, good.call())).toBe("status_unavailable");

    const back = await r.fleet.start("api");
    r.balancer.serve(portOf(back));
    for (const verifier of every) {
      await until("it is let in again", async () => (await refusalOf(verifier, good.call())) === undefined);
      expect(await refusalOf(verifier, gone.call())).toBe("token_revoked");
    }
  });
});
