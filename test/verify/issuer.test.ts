import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import type { CryptoKey } from "jose";
import { type Clock, systemClock } from "../../src/verify/clock.ts";
import {
  AccessRefused,
  createVerifier,
  type Problem,
  type Verifier,
  type VerifierOptions,
} from "../../src/verify/index.ts";
import { createIssuerKeys } from "../../src/verify/issuer-keys.ts";
import { json } from "../identity/local-server.ts";
import { until } from "../support/until.ts";
import { AUDIENCE, type Broker, signingKey, startBroker, TOOL_TOKEN } from "./broker.ts";
import { aCaller, type Caller } from "./caller.ts";

let broker: Broker;
let caller: Caller;
let ahead: number;
const problems: Problem[] = [];
const open: Verifier[] = [];
const clock: Clock = { wallMs: systemClock.wallMs, monotonicMs: () => systemClock.monotonicMs() + ahead };

beforeEach(async () => {
  broker = await startBroker();
  caller = await aCaller();
  ahead = 0;
  problems.length = 0;
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.close()));
  await broker[Symbol.asyncDispose]();
});

async function aVerifier(changes: Partial<VerifierOptions> = {}): Promise<Verifier> {
  const options = { issuer: broker.issuer, audience: AUDIENCE, authorization: () => TOOL_TOKEN };
  const verifier = await createVerifier(
    { ...options, onProblem: (problem) => problems.push(problem), ...changes },
    clock,
  );
  open.push(verifier);
  return verifier;
}

async function outcomeOf(verifier: Verifier, token: string): Promise<string> {
  return await verifier.verify(await caller.call(token)).then(
    () => "let in",
    (error: unknown) => (error instanceof AccessRefused ? error.code : String(error)),
  );
}

const mint = async (key = broker.key): Promise<string> => broker.mint({ key, claims: { cnf: { jkt: caller.jkt } } });

describe("the issuer's keys", () => {
  test("follow a rotation: the first call with a new key waits for it, and so do those beside it", async () => {
    const verifier = await aVerifier();
    const next = await signingKey();
    broker.published.push(next.jwk);
    const tokens = await Promise.all([mint(next), mint(next), mint(next)]);
    expect(await Promise.all(tokens.map((token) => outcomeOf(verifier, token)))).toEqual(Array(3).fill("let in"));
    expect(broker.asked["jwks"]).toBe(2);
    expect(await outcomeOf(verifier, await mint())).toBe("let in");
  });

  test("are read past caches, which may keep a withdrawn one for minutes", async () => {
    const { jwks } = broker.routes;
    const asked: unknown[] = [];
    broker.routes.jwks = (request, response) => {
      asked.push(request.headers["cache-control"]);
      jwks(request, response);
    };
    const verifier = await createVerifier({ issuer: broker.issuer, audience: AUDIENCE });
    await verifier.close();
    expect(asked).toEqual(["no-cache"]);
  });

  test("are asked for once a minute for kids that nobody knows", async () => {
    const verifier = await aVerifier();
    for (let call = 0; call < 5; call += 1)
      expect(await outcomeOf(verifier, await mint(await signingKey()))).toBe("token_key_unknown");
    expect(broker.asked["jwks"]).toBe(2);
    ahead = 60_000;
    expect(await outcomeOf(verifier, await mint(await signingKey()))).toBe("token_key_unknown");
    expect(broker.asked["jwks"]).toBe(3);
  });

  test("that were withdrawn are gone, for tokens that were seen before too", async () => {
    const verifier = await aVerifier();
    const token = await mint();
    expect(await outcomeOf(verifier, token)).toBe("let in");
    const next = await signingKey();
    broker.published.splice(0, 1, next.jwk);
    expect(await outcomeOf(verifier, await mint(next))).toBe("let in");
    expect(await outcomeOf(verifier, token)).toBe("token_key_unknown");
  });

  test("are another key's when another is published under the old name", async () => {
    const verifier = await aVerifier();
    const token = await mint();
    expect(await outcomeOf(verifier, token)).toBe("let in");
    const other = { ...(await signingKey()), kid: broker.key.kid };
    const fresh = await signingKey();
    broker.published.splice(0, 1, { ...other.jwk, kid: other.kid }, fresh.jwk);
    expect(await outcomeOf(verifier, await mint(fresh))).toBe("let in");
    expect(await outcomeOf(verifier, token)).toBe("token_signature_invalid");
    expect(await outcomeOf(verifier, await mint(other))).toBe("let in");
  });

  test("stay for an hour when they cannot be read again, and then nothing is let in", async () => {
    const verifier = await aVerifier({ maxStatusAgeMs: 10_000_000 });
    const token = await mint();
    expect(await outcomeOf(verifier, token)).toBe("let in");
    broker.routes.jwks = (_request, response) => void response.writeHead(500).end();
    ahead = 3_500_000;
    expect(await outcomeOf(verifier, token)).toBe("let in");
    ahead = 3_700_000;
    expect(await outcomeOf(verifier, token)).toBe("keys_unavailable");
    expect(problems.map(({ code }) => code)).toContain("keys_not_refreshed");
  });

  test("are read again by themselves, and one that was withdrawn is gone without a call that asks", async () => {
    const report = (problem: Problem): number => problems.push(problem);
    const keys = createIssuerKeys(`${broker.issuer}/.well-known/jwks.json`, clock, report, 20);
    await keys.load();
    const [key] = (await keys.find(broker.key.kid)) as CryptoKey[];
    if (key === undefined) throw new Error("the key is not found");
    const before = broker.asked["jwks"] ?? 0;
    await until("the same set was read again", () => (broker.asked["jwks"] ?? 0) > before + 1);
    expect(keys.isCurrent(broker.key.kid, key)).toBe(true);
    broker.published.splice(0, 1, (await signingKey()).jwk);
    await until("the key is gone", () => !keys.isCurrent(broker.key.kid, key));
    keys.close();
  });

  test.each<[string, object]>([
    ["for encryption", { use: "enc" }],
    ["of another algorithm", { alg: "ES384" }],
    ["that are private", { d: "AAAA" }],
  ])("%s are no keys", async (_what, changes) => {
    const verifier = await aVerifier();
    const next = await signingKey();
    broker.published.push({ ...next.jwk, ...changes });
    expect(await outcomeOf(verifier, await mint(next))).toBe("token_key_unknown");
  });
});

describe("a verifier does not start", () => {
  test.each<[string, (b: Broker) => void, RegExp]>([
    [
      "when the metadata is of another issuer",
      (b) => (b.routes.metadata = json({ issuer: "https://evil.test/t/acme" })),
      /of another issuer/,
    ],
    [
      "when the metadata is of the issuer with a slash more",
      (b) => (b.routes.metadata = json({ issuer: `${b.issuer}/` })),
      /of another issuer/,
    ],
    ["without jwks_uri", (b) => (b.routes.metadata = json({ issuer: b.issuer })), /no jwks_uri/],
    [
      "when the keys are elsewhere",
      (b) => (b.routes.metadata = json({ issuer: b.issuer, jwks_uri: "https://evil.test/j" })),
      /jwks_uri is not a URL of the issuer's origin/,
    ],
    [
      "when the metadata says a thing twice",
      (b) => (b.routes.metadata = json(`{"issuer":"${b.issuer}","issuer":"x"}`)),
      /not a strict JSON object/,
    ],
    [
      "when the metadata is endless",
      (b) => (b.routes.metadata = json(`"${"x".repeat(100_000)}"`)),
      /more than 65536 bytes/,
    ],
    ["when the metadata is not there", (b) => (b.routes.metadata = json({}, {}, 404)), /status 404/],
    [
      "when the metadata is elsewhere",
      (b) => (b.routes.metadata = json({}, { location: "https://evil.test" }, 302)),
      /status 302/,
    ],
    ["when the keys are no key set", (b) => (b.routes.jwks = json({ keys: "none" })), /no keys array/],
    ["when the keys are not there", (b) => (b.routes.jwks = json({}, {}, 500)), /status 500/],
  ])("%s", async (_what, change, message) => {
    change(broker);
    await expect(aVerifier()).rejects.toThrow(message);
  });

  test("when nobody answers", async () => {
    await broker[Symbol.asyncDispose]();
    await expect(aVerifier()).rejects.toThrow(
      /^the issuer cannot be read: the issuer could not be reached \(ECONNREFUSED\)$/,
    );
    broker = await startBroker();
  });

  test.each<[string, Partial<VerifierOptions>]>([
    ["an issuer over plain http", { issuer: "http://mayfly.example/t/acme" }],
    ["an issuer with a final slash", { issuer: "https://mayfly.example/" }],
    ["an issuer with a query", { issuer: "https://mayfly.example/t/acme?x" }],
    ["an issuer with a user", { issuer: "https://u:p@mayfly.example/t/acme" }],
    ["an issuer that is no URL", { issuer: "acme" }],
    ["an audience with a quote", { audience: 'https://a.test/"' }],
    ["an audience without an origin, and no publicUrl", { audience: "urn:tickets" }],
    ["a publicUrl that is none", { publicUrl: "tickets.test" }],
    ["a bound of no time", { maxStatusAgeMs: 0 }],
    ["a bound that is no number", { maxStatusAgeMs: Number.NaN }],
    ["a short nonce key", { nonceKey: Buffer.alloc(16) }],
    ["resource metadata with a quote", { resourceMetadata: 'https://a.test/"' }],
  ])("with %s", async (_what, changes) => {
    await expect(aVerifier(changes)).rejects.toThrow(TypeError);
    expect(broker.asked["metadata"]).toBeUndefined();
  });
});

test("an issuer without a status stream is told, and status lists are used", async () => {
  broker.routes.metadata = json({ issuer: broker.issuer, jwks_uri: `${broker.issuer}/.well-known/jwks.json` });
  const verifier = await aVerifier();
  expect(verifier.state().stream).toBe("down");
  expect(problems).toEqual([{ code: "stream_down", detail: expect.stringContaining("mayfly_status_events_endpoint") }]);
  expect(await outcomeOf(verifier, await mint())).toBe("status_unavailable");
  const status = { status_list: { idx: 0, uri: `${broker.issuer}/status/1` } };
  const listed = await broker.mint({ claims: { cnf: { jkt: caller.jkt }, status } });
  expect(await outcomeOf(verifier, listed)).toBe("let in");
});
