import { describe, expect, test } from "@jest/globals";
import { createKeyCache, type KeyEvent, type RegisteredSource } from "../../src/identity/key-cache.ts";
import { type FetchedJson, type SafeFetch, SafeFetchError } from "../../src/identity/safe-fetch.ts";
import { tokenSourceSchema } from "../../src/identity/trust-source.ts";
import { verifyToken } from "../../src/identity/verify-token.ts";
import {
  audience,
  bundle,
  issuer,
  keySetSource,
  keys,
  now,
  spiffeSource,
  svid,
  type TestKey,
  token,
  trustDomain,
} from "./fixtures.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

const registered = (config: RegisteredSource["config"], version = 1): RegisteredSource => ({
  id: "trs_1",
  version,
  config,
});
const jwksUri = (changes: object = {}) =>
  registered(tokenSourceSchema.parse({ kind: "jwks_uri", issuer, jwks_uri: `${issuer}/keys`, ...changes }));
const remoteSpiffe = (changes: object = {}) =>
  registered(
    tokenSourceSchema.parse({
      kind: "spiffe",
      issuer: trustDomain,
      bundle_url: "https://spire.example/b",
      bundle_profile: "https_web",
      ...changes,
    }),
  );
const jwksOf = (...members: TestKey[]) => ({ keys: members.map(({ jwk }) => jwk) });

type Answer = FetchedJson | Error | Promise<FetchedJson>;

/** A publisher that can be told what to answer, and a cache with a clock in the test's hand. */
function world(answer: Answer | unknown[] | object = jwksOf(keys.p256), options: { firstFetchWaitMs?: number } = {}) {
  const state = {
    now: 1_000_000,
    answer: toAnswer(answer),
    calls: [] as { url: string; etag: string | undefined }[],
    events: [] as KeyEvent[],
  };
  const fetchJson: SafeFetch = async (url, { etag } = {}) => {
    state.calls.push({ url, etag });
    const given = await state.answer;
    if (given instanceof Error) throw given;
    return given;
  };
  const cache = createKeyCache({
    fetchJson,
    nowMs: () => state.now,
    report: (event) => state.events.push(event),
    ...options,
  });
  return {
    cache,
    state,
    publish: (next: Answer | object) => {
      state.answer = toAnswer(next);
    },
    /** What a token signed with this key gets. */
    async ask(source: RegisteredSource, compact = token()): Promise<string> {
      const result = await verifyToken(compact, source.config, { audience, keys: cache.keysOf(source), now });
      await settled();
      return result.ok ? "accepted" : result.refusal.code;
    },
  };
}

function toAnswer(value: Answer | object): Answer {
  if (value instanceof Error || value instanceof Promise) return value;
  return "status" in value ? value : { status: "fresh", document: value };
}

/** Lets work that runs behind a request come to its end. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

const down = new SafeFetchError("not_reachable", "down");
const other = token({}, {}, keys.otherP256);

describe("pinned keys", () => {
  test("verify without any fetch, for ever", async () => {
    const { ask, state } = world();
    const source = registered(keySetSource());
    await expect(ask(source)).resolves.toBe("accepted");
    state.now += 1000 * HOUR;
    await expect(ask(source)).resolves.toBe("accepted");
    await expect(ask(source, other)).resolves.toBe("token_key_unknown");
    expect(state.calls).toEqual([]);
  });

  test("of a SPIFFE bundle verify its trust domain's tokens", async () => {
    const { ask } = world();
    await expect(ask(registered(spiffeSource()), svid())).resolves.toBe("accepted");
  });

  test("are never fetched by the refresh either", async () => {
    const { cache, state } = world();
    cache.keysOf(registered(keySetSource()));
    await cache.refreshDue();
    expect(state.calls).toEqual([]);
  });
});

describe("the first token of a source", () => {
  test("waits for the first fetch, and many of them for one", async () => {
    const { ask, state } = world();
    const source = jwksUri();
    await expect(Promise.all(Array.from({ length: 50 }, () => ask(source)))).resolves.toEqual(
      Array.from({ length: 50 }, () => "accepted"),
    );
    expect(state.calls).toEqual([{ url: `${issuer}/keys`, etag: undefined }]);
  });

  test("is refused as retryable when the publisher takes too long, and the next one finds the keys", async () => {
    let answer: (value: FetchedJson) => void = () => {};
    const { ask, state } = world(new Promise<FetchedJson>((resolve) => (answer = resolve)), { firstFetchWaitMs: 5 });
    const source = jwksUri();
    await expect(ask(source)).resolves.toBe("keys_unavailable");
    answer({ status: "fresh", document: jwksOf(keys.p256) });
    await settled();
    await expect(ask(source)).resolves.toBe("accepted");
    expect(state.calls).toHaveLength(1);
  });

  test("is refused when the fetch fails; the next try comes after 10 s, then 20 s, … at most 5 min", async () => {
    const { ask, state, publish } = world(down);
    const source = jwksUri();
    const tries: number[] = [];
    for (const start = state.now; state.now < start + 30 * MINUTE; state.now += 1000) {
      const before = state.calls.length;
      await expect(ask(source)).resolves.toBe("keys_unavailable");
      if (state.calls.length > before) tries.push((state.now - start) / 1000);
    }
    expect(tries).toEqual([0, 10, 30, 70, 150, 310, 610, 910, 1210, 1510]);
    state.now += 5 * MINUTE;
    publish(jwksOf(keys.p256));
    await expect(ask(source)).resolves.toBe("accepted");
  });
});

test("a success ends the row of failures: the next one is tried again after 10 s", async () => {
  const { cache, state, publish } = world(down);
  cache.keysOf(jwksUri());
  for (let tries = 0; tries < 5; tries += 1) {
    await cache.refreshDue();
    state.now += 5 * MINUTE;
  }
  publish(jwksOf(keys.p256));
  await cache.refreshDue();
  publish(down);
  state.now += HOUR;
  await cache.refreshDue();
  const failed = state.calls.length;
  state.now += 10_000;
  await cache.refreshDue();
  expect(state.calls).toHaveLength(failed + 1);
});

describe("while a usable set is held, a request never waits for the network", () => {
  test("a due refresh runs behind the request, once", async () => {
    const { ask, state, publish } = world();
    const source = jwksUri();
    await ask(source);
    publish(new Promise<FetchedJson>(() => {}));
    state.now += HOUR;
    await expect(Promise.all([ask(source), ask(source), ask(source)])).resolves.toEqual([
      "accepted",
      "accepted",
      "accepted",
    ]);
    expect(state.calls).toHaveLength(2);
  });

  test("a rotation is seen by the next refresh: the new key verifies, the old one no more", async () => {
    const { ask, state, publish } = world();
    const source = jwksUri();
    await ask(source);
    publish(jwksOf(keys.otherP256));
    state.now += 10 * MINUTE;
    await expect(ask(source)).resolves.toBe("accepted");
    await expect(ask(source)).resolves.toBe("token_key_unknown");
    await expect(ask(source, other)).resolves.toBe("accepted");
  });

  test("an unknown kid causes one refetch a minute, however many ask, and waits for none", async () => {
    const { ask, state, publish } = world();
    const source = jwksUri();
    await ask(source);
    const forged = Array.from({ length: 200 }, (_, i) => token({}, { kid: `forged-${i}` }));
    for (const compact of forged) await expect(ask(source, compact)).resolves.toBe("token_key_unknown");
    expect(state.calls).toHaveLength(1);
    state.now += MINUTE;
    publish(new Promise<FetchedJson>(() => {}));
    await Promise.all(forged.map((compact) => ask(source, compact)));
    expect(state.calls).toHaveLength(2);
    state.now += 59_000;
    await ask(source, other);
    expect(state.calls).toHaveLength(2);
  });

  test("a key published after the set was read is found within a minute of the first token that needs it", async () => {
    const { ask, state, publish } = world();
    const source = jwksUri();
    await ask(source);
    publish(jwksOf(keys.p256, keys.otherP256));
    state.now += MINUTE;
    await expect(ask(source, other)).resolves.toBe("token_key_unknown");
    await expect(ask(source, other)).resolves.toBe("accepted");
  });

  test("an unknown kid while the publisher is down asks once a minute too", async () => {
    const { ask, state, publish } = world();
    const source = jwksUri();
    await ask(source);
    publish(down);
    for (let second = 0; second < 300; second += 1) {
      state.now += 1000;
      await ask(source, other);
    }
    expect(state.calls).toHaveLength(1 + 5);
  });
});

describe("how often a set is read again", () => {
  test.each<[name: string, maxAgeSeconds: number | undefined, seconds: number]>([
    ["nothing said: ten minutes", undefined, 600],
    ["what Cache-Control says", 1200, 1200],
    ["not more often than every minute", 0, 60],
    ["not less often than every hour", 86_400, 3600],
  ])("%s", async (_name, maxAgeSeconds, seconds) => {
    const fresh: FetchedJson = {
      status: "fresh",
      document: jwksOf(keys.p256),
      ...(maxAgeSeconds === undefined ? {} : { maxAgeSeconds }),
    };
    const { cache, state } = world(fresh);
    cache.keysOf(jwksUri());
    await cache.refreshDue();
    state.now += seconds * 1000 - 1;
    await cache.refreshDue();
    expect(state.calls).toHaveLength(1);
    state.now += 1;
    await cache.refreshDue();
    expect(state.calls).toHaveLength(2);
  });

  test.each<[name: string, hint: number | undefined, seconds: number]>([
    ["a bundle without a hint: five minutes", undefined, 300],
    ["a bundle's hint", 900, 900],
    ["a hint of a second: a minute", 1, 60],
    ["a hint of a year: an hour", 31_536_000, 3600],
  ])("%s, whatever Cache-Control says", async (_name, hint, seconds) => {
    const document = { ...bundle(keys.p256), ...(hint === undefined ? {} : { spiffe_refresh_hint: hint }) };
    const { cache, state } = world({ status: "fresh", document, maxAgeSeconds: 77 });
    cache.keysOf(remoteSpiffe());
    await cache.refreshDue();
    state.now += seconds * 1000 - 1;
    await cache.refreshDue();
    expect(state.calls).toHaveLength(1);
    state.now += 1;
    await cache.refreshDue();
    expect(state.calls).toHaveLength(2);
  });

  test("the entity tag is sent back, and 'not modified' keeps the keys and renews them", async () => {
    const { ask, cache, state, publish } = world({ status: "fresh", document: jwksOf(keys.p256), etag: '"v1"' });
    const source = jwksUri();
    await ask(source);
    publish({ status: "not_modified" });
    for (let hours = 0; hours < 48; hours += 1) {
      state.now += HOUR;
      await cache.refreshDue();
    }
    await expect(ask(source)).resolves.toBe("accepted");
    expect(state.calls.slice(1).every(({ etag }) => etag === '"v1"')).toBe(true);
    expect(state.events.at(-1)).toEqual({ sourceId: "trs_1", outcome: "unchanged" });
  });

  test("'not modified' when nothing is held is no answer", async () => {
    const { ask, state } = world({ status: "not_modified" });
    await expect(ask(jwksUri())).resolves.toBe("keys_unavailable");
    expect(state.events).toMatchObject([{ outcome: "failed", reason: "document_refused" }]);
  });
});

describe("when the publisher is down", () => {
  test("the last good keys stay for 24 hours, then every token is refused, until it answers again", async () => {
    const { ask, cache, state, publish } = world();
    const source = jwksUri();
    await ask(source);
    const readAt = state.now;
    publish(down);
    state.now = readAt + 24 * HOUR - 1;
    await cache.refreshDue();
    await expect(ask(source)).resolves.toBe("accepted");
    state.now = readAt + 24 * HOUR;
    await expect(ask(source)).resolves.toBe("keys_stale");
    publish(jwksOf(keys.p256));
    state.now += 5 * MINUTE;
    await expect(ask(source)).resolves.toBe("accepted");
  });

  test("the source says for how long", async () => {
    const { ask, state, publish } = world();
    const source = jwksUri({ keys_max_age_seconds: 300 });
    await ask(source);
    publish(down);
    state.now += 299_999;
    await expect(ask(source)).resolves.toBe("accepted");
    state.now += 1;
    await expect(ask(source)).resolves.toBe("keys_stale");
  });

  test("a source that was idle for days is not refused: its token waits for the fetch", async () => {
    const { ask, state } = world();
    const source = jwksUri();
    await ask(source);
    state.now += 72 * HOUR;
    await expect(ask(source)).resolves.toBe("accepted");
  });

  test.each<[name: string, answer: object, reason: string]>([
    ["an error", down, "not_reachable"],
    ["a redirect", new SafeFetchError("redirect_refused", "r"), "redirect_refused"],
    ["something that is no key set", { error: "x" }, "document_refused"],
    ["too many keys", { keys: Array.from({ length: 21 }, () => keys.p256.jwk) }, "document_refused"],
    ["an exception of foreign code", new TypeError("internal text"), "document_refused"],
  ])("%s keeps the last good set, and is reported", async (_name, answer, reason) => {
    const { ask, state, publish } = world();
    const source = jwksUri();
    await ask(source);
    publish(answer);
    state.now += HOUR;
    await ask(source);
    await expect(ask(source)).resolves.toBe("accepted");
    expect(state.events.at(-1)).toMatchObject({ sourceId: "trs_1", outcome: "failed", reason });
    expect(JSON.stringify(state.events)).not.toContain("internal text");
  });
});

describe("an empty set revokes everything at once (SPIFFE trust domain and bundle §4)", () => {
  test.each([
    ["a JWK Set", jwksUri(), token()],
    ["a bundle", remoteSpiffe(), svid()],
  ] as const)("%s", async (_name, source, compact) => {
    const { ask, cache, state, publish } = world(
      source.config.kind === "spiffe" ? bundle(keys.p256) : jwksOf(keys.p256),
    );
    cache.keysOf(source);
    await cache.refreshDue();
    await expect(ask(source, compact)).resolves.toBe("accepted");
    publish({ keys: [], spiffe_sequence: 2 });
    state.now += HOUR;
    await cache.refreshDue();
    await expect(ask(source, compact)).resolves.toBe("token_key_unknown");
  });
});

describe("a bundle's sequence", () => {
  const withSequence = (sequence: number | undefined, ...members: TestKey[]) => ({
    keys: bundle(...members).keys,
    ...(sequence === undefined ? {} : { spiffe_sequence: sequence }),
  });

  test.each<[name: string, sequence: number | undefined, taken: boolean]>([
    ["forward is taken", 6, true],
    ["the same is taken", 5, true],
    ["back is not", 4, false],
    ["gone is not", undefined, false],
  ])("%s", async (_name, sequence, taken) => {
    const { ask, cache, state, publish } = world(withSequence(5, keys.p256));
    const source = remoteSpiffe();
    cache.keysOf(source);
    await cache.refreshDue();
    publish(withSequence(sequence, keys.otherP256));
    state.now += HOUR;
    await cache.refreshDue();
    await expect(ask(source, svid())).resolves.toBe(taken ? "token_key_unknown" : "accepted");
    await expect(ask(source, svid({}, {}, keys.otherP256))).resolves.toBe(taken ? "accepted" : "token_key_unknown");
    expect(state.events.some(({ reason }) => reason === "sequence_went_back")).toBe(!taken);
  });

  test("that went back does not keep the held bundle alive: it goes stale", async () => {
    const { ask, cache, state, publish } = world(withSequence(5, keys.p256));
    const source = remoteSpiffe();
    cache.keysOf(source);
    await cache.refreshDue();
    publish(withSequence(4, keys.p256));
    for (let hours = 0; hours < 24; hours += 1) {
      state.now += HOUR;
      await cache.refreshDue();
    }
    await expect(ask(source, svid())).resolves.toBe("keys_stale");
  });
});

describe("sources do not mix", () => {
  test("two sources with one kid verify by their own keys alone", async () => {
    const { cache, state } = world();
    const first = jwksUri();
    const second: RegisteredSource = { ...jwksUri({ jwks_uri: `${issuer}/other` }), id: "trs_2" };
    const documents: Record<string, object> = {
      [`${issuer}/keys`]: jwksOf(keys.p256),
      [`${issuer}/other`]: jwksOf({ ...keys.otherP256, jwk: { ...keys.otherP256.jwk, kid: "p256" } }),
    };
    const fetchJson: SafeFetch = async (url) => ({ status: "fresh", document: documents[url] });
    const own = createKeyCache({ fetchJson, nowMs: () => state.now });
    const results = [];
    for (const source of [first, second]) {
      for (const compact of [token(), token({}, { kid: "p256" }, keys.otherP256)]) {
        results.push((await verifyToken(compact, source.config, { audience, keys: own.keysOf(source), now })).ok);
      }
    }
    expect(results).toEqual([true, false, false, true]);
    cache.forget("trs_1");
  });

  test("a new version of a source starts without the old one's keys", async () => {
    const { ask, publish } = world();
    const source = jwksUri();
    await expect(ask(source)).resolves.toBe("accepted");
    publish(jwksOf(keys.otherP256));
    await expect(ask({ ...source, version: 2 })).resolves.toBe("token_key_unknown");
  });

  test("a source that was forgotten is read anew", async () => {
    const { ask, cache, state } = world();
    await ask(jwksUri());
    cache.forget("trs_1");
    await ask(jwksUri());
    expect(state.calls).toHaveLength(2);
  });

  test("refreshDue reads every due source, a few at a time, and one that fails stops none", async () => {
    let running = 0;
    let most = 0;
    let fetched = 0;
    const fetchJson: SafeFetch = async (url) => {
      running += 1;
      most = Math.max(most, running);
      await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
      fetched += 1;
      if (url.endsWith("3")) throw down;
      return { status: "fresh", document: jwksOf(keys.p256) };
    };
    const cache = createKeyCache({ fetchJson, nowMs: () => 0 });
    for (let i = 0; i < 40; i += 1) cache.keysOf({ ...jwksUri({ jwks_uri: `${issuer}/${i}` }), id: `trs_${i}` });
    await cache.refreshDue();
    expect([fetched, most <= 8]).toEqual([40, true]);
  });
});
