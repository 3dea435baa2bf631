import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { createKeyCache, type KeyEvent, type RegisteredSource } from "../../src/identity/key-cache.ts";
import { importKeySet } from "../../src/identity/key-set.ts";
import { createSafeFetch } from "../../src/identity/safe-fetch.ts";
import { tokenSourceSchema } from "../../src/identity/trust-source.ts";
import { verifyToken } from "../../src/identity/verify-token.ts";
import { createBundleWatch } from "../../src/identity/watch-bundles.ts";
import { type App, startApp } from "../support/app.ts";
import { type Seeded, seed } from "../support/seed.ts";
import { audience, keys, now, svid, type TestKey, trustDomain } from "./fixtures.ts";
import { type LocalServer, localServer } from "./local-server.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const safeFetch = createSafeFetch({ allowLoopbackHttp: true });

const member = ({ jwk }: TestKey, changes: object = {}): object => ({ ...jwk, use: "jwt-svid", ...changes });

/** A bundle endpoint: a real server that serves the document of the moment, or does not answer with one. */
interface Endpoint extends AsyncDisposable {
  readonly url: string;
  readonly server: LocalServer;
  serve(document: object | string, status?: number, headers?: Record<string, string>): void;
  reads(): number;
}

async function bundleEndpoint(first: object): Promise<Endpoint> {
  let served = { text: JSON.stringify(first), status: 200, headers: {} as Record<string, string> };
  let reads = 0;
  const server = await localServer((_request, response) => {
    reads += 1;
    response.writeHead(served.status, { "content-type": "application/json", ...served.headers });
    response.end(served.text);
  });
  return {
    url: `${server.origin}/bundle`,
    server,
    serve(document, status = 200, headers = {}) {
      served = { text: typeof document === "string" ? document : JSON.stringify(document), status, headers };
    },
    reads: () => reads,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

/** One trust domain whose bundle is at the endpoint, on a clock in the test's hand. */
async function federation(first: object, settings: object = {}) {
  const endpoint = await bundleEndpoint(first);
  const events: KeyEvent[] = [];
  let clock = 1_000_000;
  const cache = createKeyCache({ fetchJson: safeFetch, nowMs: () => clock, report: (event) => events.push(event) });
  const config = tokenSourceSchema.parse({
    kind: "spiffe",
    issuer: trustDomain,
    bundle_url: endpoint.url,
    bundle_profile: "https_web",
    ...settings,
  });
  const source: RegisteredSource = { id: "trs_1", version: 1, config };
  cache.keysOf(source);
  await cache.refreshDue();
  return {
    endpoint,
    events,
    async after(ms: number): Promise<void> {
      clock += ms;
      await cache.refreshDue();
    },
    /** Lets time pass while nothing runs. */
    idle(ms: number): void {
      clock += ms;
    },
    refreshDue: () => cache.refreshDue(),
    async ask(compact = svid()): Promise<string> {
      const result = await verifyToken(compact, config, { audience, keys: cache.keysOf(source), now });
      return result.ok ? "accepted" : result.refusal.code;
    },
    [Symbol.asyncDispose]: () => endpoint[Symbol.asyncDispose](),
  };
}

const bySecond = svid({}, {}, keys.otherP256);

describe("a SPIFFE bundle endpoint (profile https_web, against a real server)", () => {
  test("a rotation is seen with the next refresh: old and new, then the new one alone", async () => {
    await using f = await federation({ keys: [member(keys.p256)], spiffe_sequence: 1 });
    expect([await f.ask(), await f.ask(bySecond)]).toEqual(["accepted", "token_key_unknown"]);
    f.endpoint.serve({ keys: [member(keys.p256), member(keys.otherP256)], spiffe_sequence: 2 });
    await f.after(5 * MINUTE);
    expect([await f.ask(), await f.ask(bySecond)]).toEqual(["accepted", "accepted"]);
    f.endpoint.serve({ keys: [member(keys.otherP256)], spiffe_sequence: 3 });
    await f.after(5 * MINUTE);
    expect([await f.ask(), await f.ask(bySecond)]).toEqual(["token_key_unknown", "accepted"]);
  });

  test.each<[name: string, serve: (endpoint: Endpoint) => Promise<void> | void, reason: string]>([
    ["is gone", async ({ server }) => server[Symbol.asyncDispose](), "not_reachable"],
    ["answers 503", (e) => e.serve({}, 503), "status_not_ok"],
    ["redirects, even to a good bundle", (e) => e.serve({}, 307, { location: e.url }), "redirect_refused"],
    ["serves HTML", (e) => e.serve("<html>", 200, { "content-type": "text/html" }), "content_type_refused"],
    ["serves half a document", (e) => e.serve('{"keys":['), "body_not_json"],
    ["serves a member twice", (e) => e.serve('{"keys":[],"keys":[]}'), "body_not_json"],
    ["serves no bundle", (e) => e.serve({ error: "x" }), "document_refused"],
    ["serves an endless list", (e) => e.serve({ keys: [], x: "x".repeat(70_000) }), "body_too_large"],
    [
      "goes back in sequence",
      (e) => e.serve({ keys: [member(keys.otherP256)], spiffe_sequence: 6 }),
      "sequence_went_back",
    ],
    ["loses its sequence", (e) => e.serve({ keys: [member(keys.otherP256)] }), "sequence_went_back"],
    ["has a fraction as sequence", (e) => e.serve({ keys: [], spiffe_sequence: 7.5 }), "document_refused"],
    [
      "has a sequence beyond 2^53",
      (e) => e.serve('{"keys":[],"spiffe_sequence":9007199254740993}'),
      "document_refused",
    ],
    ["has a negative sequence", (e) => e.serve({ keys: [], spiffe_sequence: -1 }), "document_refused"],
    ["has a text as sequence", (e) => e.serve({ keys: [], spiffe_sequence: "8" }), "document_refused"],
  ])(
    "that %s leaves the last good bundle, says why, and fails closed at the maximum age",
    async (_n, serve, reason) => {
      await using f = await federation({ keys: [member(keys.p256)], spiffe_sequence: 7 });
      await serve(f.endpoint);
      await f.after(5 * MINUTE);
      expect(f.events.at(-1)).toMatchObject({ sourceId: "trs_1", outcome: "failed", reason });
      expect([await f.ask(), await f.ask(bySecond)]).toEqual(["accepted", "token_key_unknown"]);
      for (let hours = 0; hours < 23; hours += 1) await f.after(HOUR);
      expect(await f.ask()).toBe("accepted");
      await f.after(HOUR);
      expect([await f.ask(), await f.ask(bySecond)]).toEqual(["keys_stale", "keys_stale"]);
    },
  );

  test("an older sequence stays refused when it is served again and again, a newer one ends it", async () => {
    await using f = await federation({ keys: [member(keys.p256)], spiffe_sequence: 7 });
    f.endpoint.serve({ keys: [member(keys.otherP256)], spiffe_sequence: 1 });
    for (let times = 0; times < 5; times += 1) await f.after(5 * MINUTE);
    expect(await f.ask(bySecond)).toBe("token_key_unknown");
    f.endpoint.serve({ keys: [member(keys.otherP256)], spiffe_sequence: 8 });
    await f.after(5 * MINUTE);
    expect([await f.ask(), await f.ask(bySecond)]).toEqual(["token_key_unknown", "accepted"]);
  });

  test.each<[hint: string, seconds: number]>([
    ["900", 900],
    ["1", 60],
    ["0.001", 60],
    ["0", 300],
    ["-1", 300],
    ["-1e300", 300],
    ["31536000", 3600],
    ["1e308", 3600],
    ['"60"', 300],
    ["null", 300],
    ["true", 300],
    ["[900]", 300],
    ["{}", 300],
  ])("with a refresh hint of %s is read again after %i seconds", async (hint, seconds) => {
    await using f = await federation({ keys: [member(keys.p256)] });
    f.endpoint.serve(`{"keys":[],"spiffe_sequence":1,"spiffe_refresh_hint":${hint}}`);
    await f.after(5 * MINUTE);
    await f.after(seconds * 1000 - 1);
    expect(f.endpoint.reads()).toBe(2);
    await f.after(1);
    expect(f.endpoint.reads()).toBe(3);
  });

  test("is read again before its keys are too old, however long its hint is", async () => {
    await using f = await federation(
      { keys: [member(keys.p256)], spiffe_refresh_hint: 3600 },
      { keys_max_age_seconds: 300 },
    );
    for (let seconds = 0; seconds < 1200; seconds += 5) {
      await f.after(5000);
      expect([seconds, await f.ask()]).toEqual([seconds, "accepted"]);
    }
    expect(f.endpoint.reads()).toBeLessThanOrEqual(1 + 1200 / 60);
  });

  test("no token makes it be read, neither the first nor a stale one nor one with an unknown kid at once", async () => {
    await using endpoint = await bundleEndpoint({ keys: [member(keys.p256)] });
    let clock = 0;
    const cache = createKeyCache({ fetchJson: safeFetch, nowMs: () => clock });
    const settings = { bundle_url: endpoint.url, bundle_profile: "https_web" };
    const config = tokenSourceSchema.parse({ kind: "spiffe", issuer: trustDomain, ...settings });
    const source: RegisteredSource = { id: "trs_1", version: 1, config };
    const ask = async (compact: string): Promise<string> => {
      const result = await verifyToken(compact, config, { audience, keys: cache.keysOf(source), now });
      return result.ok ? "accepted" : result.refusal.code;
    };
    expect([await ask(svid()), endpoint.server.connections()]).toEqual(["keys_unavailable", 0]);
    await cache.refreshDue();
    expect([await ask(svid()), endpoint.server.connections()]).toEqual(["accepted", 1]);
    expect([await ask(bySecond), endpoint.server.connections()]).toEqual(["token_key_unknown", 1]);
    clock += 25 * HOUR;
    expect([await ask(svid()), endpoint.server.connections()]).toEqual(["keys_stale", 1]);
    await cache.refreshDue();
    expect([await ask(svid()), endpoint.server.connections()]).toEqual(["accepted", 2]);
  });

  test("two endpoints are never merged: a key of one trust domain vouches for no workload of the other", async () => {
    await using ours = await bundleEndpoint({ keys: [member(keys.p256, { kid: "k" })] });
    await using theirs = await bundleEndpoint({ keys: [member(keys.otherP256, { kid: "k" })] });
    const cache = createKeyCache({ fetchJson: safeFetch, nowMs: () => 0 });
    const sources = [
      [trustDomain, ours],
      ["spiffe://evil.example", theirs],
    ].map(
      ([issuer, endpoint], index): RegisteredSource => ({
        id: `trs_${index}`,
        version: 1,
        config: tokenSourceSchema.parse({
          kind: "spiffe",
          issuer,
          bundle_url: (endpoint as Endpoint).url,
          bundle_profile: "https_web",
        }),
      }),
    );
    for (const source of sources) cache.keysOf(source);
    await cache.refreshDue();
    const verdicts = [];
    for (const sub of [`${trustDomain}/agent/a1`, "spiffe://evil.example/agent/a1"])
      for (const key of [keys.p256, keys.otherP256])
        for (const source of sources) {
          const options = { audience, keys: cache.keysOf(source), now };
          const result = await verifyToken(svid({ sub }, { kid: "k" }, key), source.config, options);
          verdicts.push(result.ok ? "accepted" : result.refusal.code);
        }
    expect(verdicts).toEqual([
      "accepted",
      "token_issuer_unknown",
      "token_signature_invalid",
      "token_issuer_unknown",
      "token_issuer_unknown",
      "token_signature_invalid",
      "token_issuer_unknown",
      "accepted",
    ]);
  });
});

describe("which keys of a bundle sign JWT-SVIDs (SPIFFE trust domain and bundle §4.2)", () => {
  const privateMembers = { d: keys.p256.privateKey.export({ format: "jwk" }).d };
  test.each<[name: string, changes: object, usable: boolean]>([
    ["use jwt-svid", {}, true],
    ["use jwt-svid without alg, as SPIRE writes it", { alg: undefined }, true],
    ["use jwt-svid with its alg", { alg: "ES256" }, true],
    ["use sig", { use: "sig" }, false],
    ["no use", { use: undefined }, false],
    ["use x509-svid", { use: "x509-svid" }, false],
    ["use wit-svid", { use: "wit-svid" }, false],
    ["use in capitals", { use: "JWT-SVID" }, false],
    ["use as a list", { use: ["jwt-svid"] }, false],
    ["no kid", { kid: undefined }, false],
    ["an empty kid", { kid: "" }, false],
    ["an unknown type", { kty: "LMS" }, false],
    ["an alg of another curve", { alg: "ES384" }, false],
    ["an HMAC alg", { alg: "HS256" }, false],
    ["a private key", privateMembers, false],
  ])("%s", async (_name, changes, usable) => {
    const set = await importKeySet({ keys: [member(keys.p256, changes)] }, "jwt-svid", ["ES256", "ES384"]);
    expect([set.keys.length, set.leftOut.length]).toEqual(usable ? [1, 0] : [0, 1]);
  });

  test("two keys of one kid both verify, and no third one does", async () => {
    await using f = await federation({
      keys: [member(keys.p256, { kid: "same" }), member(keys.otherP256, { kid: "same" })],
    });
    const header = { kid: "same" };
    expect([await f.ask(svid({}, header)), await f.ask(svid({}, header, keys.otherP256))]).toEqual([
      "accepted",
      "accepted",
    ]);
    expect(await f.ask(svid({}, header, { ...keys.p384, privateKey: keys.p384.privateKey }, "ES384"))).toBe(
      "token_key_unknown",
    );
  });

  test("an empty bundle is the revocation of everything", async () => {
    await using f = await federation({ keys: [member(keys.p256)], spiffe_sequence: 1 });
    f.endpoint.serve({ keys: [], spiffe_sequence: 2 });
    await f.after(5 * MINUTE);
    expect(await f.ask()).toBe("token_key_unknown");
  });
});

test.each([
  ["a URL without its profile", { bundle_url: "https://spire.example/b" }, "bundle_profile"],
  [
    "a profile without its URL",
    { bundle: { keys: [member(keys.p256)] }, bundle_profile: "https_web" },
    "bundle_profile",
  ],
  [
    "https_spiffe, which is not supported",
    { bundle_url: "https://spire.example/b", bundle_profile: "https_spiffe" },
    "bundle_profile",
  ],
  ["http", { bundle_url: "http://spire.example/b", bundle_profile: "https_web" }, "bundle_url"],
  ["user info", { bundle_url: "https://u:p@spire.example/b", bundle_profile: "https_web" }, "bundle_url"],
  ["a private address", { bundle_url: "https://10.0.0.1/b", bundle_profile: "https_web" }, "bundle_url"],
  ["the metadata service", { bundle_url: "https://169.254.169.254/b", bundle_profile: "https_web" }, "bundle_url"],
])("the triple of an endpoint is explicit and sane: %s is refused", (_name, settings, at) => {
  const parsed = tokenSourceSchema.safeParse({ kind: "spiffe", issuer: trustDomain, ...settings });
  expect(parsed.error?.issues.map(({ path }) => path[0])).toEqual([at]);
});

describe("registered with the API", () => {
  let app: App;
  let s: Seeded;
  beforeAll(async () => {
    app = await startApp({ worker: false });
    s = await seed(app.broker, app.idp);
  });
  afterAll(async () => {
    await app[Symbol.asyncDispose]();
  });

  const as = async (method: string, path: string, body?: object, headers: Record<string, string> = {}) =>
    app.call(await app.token({ sub: "admin" }), method, path, body, headers);
  const seconds = (): number => Math.floor(Date.now() / 1000);
  const whoIs = async (compact: string) => {
    const { status, body } = await app.call(compact, "POST", "/v1/credentials", {});
    return [status, body.reasons?.[0]?.code];
  };
  const live = (td: string, key = keys.p256): string =>
    svid({ sub: `${td}/a`, aud: app.broker.issuerUrl("default"), iat: seconds(), exp: seconds() + 300 }, {}, key);
  const register = async (td: string, url: string): Promise<string> => {
    const source = {
      name: td.slice("spiffe://".length, -".test".length),
      kind: "spiffe",
      issuer: td,
      bundle_url: url,
      bundle_profile: "https_web",
    };
    const { body } = await as("POST", "/v1/trust-sources", source);
    const who = { trust_source_id: body.id, agent_id: s.agentId, anchor_claim: "sub", anchor_value: `${td}/a` };
    expect((await as("POST", "/v1/identities", who)).status).toBe(201);
    return body.id;
  };

  test("the bundle is read in the background, by every process, before any token; a token never waits for it", async () => {
    await using endpoint = await bundleEndpoint({ keys: [member(keys.p256)], spiffe_sequence: 4 });
    const td = "spiffe://one.test";
    await register(td, endpoint.url);
    await app.broker.refreshKeys();
    expect(endpoint.reads()).toBe(1);
    expect(await whoIs(live(td))).toEqual([400, undefined]);
    await using second = await startApp({
      worker: false,
      database: app.database,
      env: { MAYFLY_KEK: app.env["MAYFLY_KEK"] ?? "" },
    });
    await second.broker.refreshKeys();
    expect(endpoint.reads()).toBe(2);
  });

  test("a changed URL takes effect with the next refresh, and a disabled source is no longer read", async () => {
    await using first = await bundleEndpoint({ keys: [member(keys.p256)] });
    await using second = await bundleEndpoint({ keys: [member(keys.otherP256)] });
    const td = "spiffe://two.test";
    const id = await register(td, first.url);
    await app.broker.refreshKeys();
    expect(await whoIs(live(td))).toEqual([400, undefined]);
    const at = `/v1/trust-sources/${id}`;
    expect((await as("PATCH", at, { bundle_url: second.url }, { "if-match": '"1"' })).status).toBe(200);
    await app.broker.refreshKeys();
    expect(second.reads()).toBe(1);
    expect(await whoIs(live(td, keys.otherP256))).toEqual([400, undefined]);
    expect(await whoIs(live(td))).toEqual([401, "token_key_unknown"]);
    expect((await as("POST", `${at}/state`, { state: "disabled" })).status).toBe(200);
    await app.broker.refreshKeys();
    expect(await whoIs(live(td, keys.otherP256))).toEqual([401, "token_issuer_unknown"]);
  });

  test("a sequence that any process has seen is not undercut at another one, nor after a restart, until the source changes", async () => {
    await using endpoint = await bundleEndpoint({ keys: [member(keys.p256)], spiffe_sequence: 9 });
    const td = "spiffe://four.test";
    const id = await register(td, endpoint.url);
    await app.broker.refreshKeys();
    expect(await whoIs(live(td))).toEqual([400, undefined]);
    endpoint.serve({ keys: [member(keys.otherP256)], spiffe_sequence: 8 });
    const env = { MAYFLY_KEK: app.env["MAYFLY_KEK"] ?? "" };
    await using restarted = await startApp({ worker: false, database: app.database, env });
    await restarted.broker.refreshKeys();
    const said = restarted.logged.map((text) => JSON.parse(text)).find(({ sourceId }) => sourceId === id);
    expect(said).toMatchObject({ level: "warn", outcome: "failed", reason: "sequence_went_back" });
    const metrics = await (await fetch(`${restarted.api.url}/metrics`)).text();
    expect(metrics).toMatch(/^mayfly_trust_source_keys_read_total\{outcome="failed",reason="sequence_went_back"\} 1$/m);
    // A trust domain that starts anew: its admin here says so by changing the source.
    const at = `/v1/trust-sources/${id}`;
    expect((await as("PATCH", at, { keys_max_age_seconds: 3600 }, { "if-match": '"1"' })).status).toBe(200);
    await app.broker.refreshKeys();
    expect(await whoIs(live(td, keys.otherP256))).toEqual([400, undefined]);
  });

  test("a source that is disabled or deleted is not read any more", async () => {
    await using endpoint = await bundleEndpoint({ keys: [member(keys.p256)], spiffe_sequence: 1 });
    const settings = { name: "five", kind: "spiffe", bundle_url: endpoint.url, bundle_profile: "https_web" };
    const { body } = await as("POST", "/v1/trust-sources", { ...settings, issuer: "spiffe://five.test" });
    let clock = 0;
    const cache = createKeyCache({ fetchJson: safeFetch, nowMs: () => clock });
    const bundles = createBundleWatch(app.broker.db, cache);
    const readsIn = async (ms: number): Promise<number> => {
      clock += ms;
      const before = endpoint.reads();
      await bundles.announce();
      await cache.refreshDue();
      await bundles.keepSequences();
      return endpoint.reads() - before;
    };
    // This cache alone is moved in time; the API's own reads the endpoint once, whenever that is.
    await app.broker.refreshKeys();
    expect(await readsIn(HOUR)).toBe(1);
    expect((await as("POST", `/v1/trust-sources/${body.id}/state`, { state: "disabled" })).status).toBe(200);
    expect(await readsIn(HOUR)).toBe(0);
    expect((await as("POST", `/v1/trust-sources/${body.id}/state`, { state: "active" })).status).toBe(200);
    await app.broker.refreshKeys();
    expect(await readsIn(HOUR)).toBe(1);
    const { body: found } = await as("GET", `/v1/trust-sources/${body.id}`);
    expect(
      (await as("DELETE", `/v1/trust-sources/${body.id}`, undefined, { "if-match": `"${found.version}"` })).status,
    ).toBe(204);
    expect(await readsIn(HOUR)).toBe(0);
  });

  test("a reading that fails is a warning in the log and a number to alert on, without anything of the document", async () => {
    await using endpoint = await bundleEndpoint({ keys: [member(keys.p256)] });
    endpoint.serve('{"keys":"SECRET-LOOKING"}');
    const id = await register("spiffe://three.test", endpoint.url);
    await app.broker.refreshKeys();
    const line = app.logged.map((text) => JSON.parse(text)).find(({ sourceId }) => sourceId === id);
    expect(line).toMatchObject({ level: "warn", outcome: "failed", reason: "document_refused" });
    expect(app.logged.join("")).not.toContain("SECRET-LOOKING");
    const metrics = await (await fetch(`${app.api.url}/metrics`)).text();
    expect(metrics).toMatch(
      /^mayfly_trust_source_keys_read_total\{outcome="failed",reason="document_refused"\} [1-9]/m,
    );
  });
});
