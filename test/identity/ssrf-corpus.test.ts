import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { fetchKeys } from "../../src/identity/fetch-keys.ts";
import { KeySetError } from "../../src/identity/key-set.ts";
import { createSafeFetch } from "../../src/identity/safe-fetch.ts";
import { tokenSourceSchema } from "../../src/identity/trust-source.ts";
import { type Answer, type App, startApp } from "../support/app.ts";
import { seed } from "../support/seed.ts";
import { watchDials } from "./dials.ts";
import { keys } from "./fixtures.ts";
import { json, type LocalServer, localServer } from "./local-server.ts";
import { problemOf, resolver } from "./resolver.ts";
import { answers, issuerPaths, names, PORT, redirects, urls } from "./ssrf-corpus.ts";

// reliability M5, standards §19.1 item 8: whatever an admin, an issuer or a name server says, Mayfly talks to nobody but
// public hosts, and reads little from them.

let app: App;
let admin: string;
/** Listens on loopback: whoever is tricked arrives here. */
let canary: LocalServer;
let ours: ReadonlySet<number>;
const watching = watchDials();
const { dials } = watching;

beforeAll(async () => {
  // As an operator runs it: loopback is not allowed.
  app = await startApp({ worker: false, env: { MAYFLY_ALLOW_LOOPBACK_HTTP: "false" } });
  await seed(app.broker, app.idp);
  admin = await app.token({ sub: "admin" });
  canary = await localServer(json({ keys: [keys.p256.jwk] }));
  ours = new Set([app.api.port, Number(new URL(app.database.runtimeUrl).port)]);
});
beforeEach(() => {
  dials.length = 0;
});
afterAll(async () => {
  watching[Symbol.dispose]();
  await canary[Symbol.asyncDispose]();
  await app[Symbol.asyncDispose]();
});

const dialled = (): string[] =>
  dials.filter(({ port }) => !ours.has(port)).map(({ address, port }) => `${address} ${port}`);
const atCanary = (text: string): string => text.replaceAll(PORT, String(canary.port));

let sources = 0;
/** Each place of a trust source that holds a URL to fetch. */
const fields = {
  issuer: (url: string) => ({ kind: "oidc", issuer: url }),
  jwks_uri: (url: string) => ({ kind: "jwks_uri", issuer: `source-${sources}`, jwks_uri: url }),
  bundle_url: (url: string) => ({
    kind: "spiffe",
    issuer: `spiffe://source-${sources}.test`,
    bundle_url: url,
    bundle_profile: "https_web",
  }),
} as const;
type Field = keyof typeof fields;

async function register(field: Field, url: string): Promise<Answer> {
  sources += 1;
  return app.call(admin, "POST", "/v1/trust-sources", { name: `source-${sources}`, ...fields[field](url) });
}

/** Registers it, and reads its keys if that went through: `400 <pointer>`, or what the look found. */
async function registerAndLook(field: Field, url: string): Promise<string> {
  const made = await register(field, url);
  if (made.status !== 201) return `${made.status} ${made.body.errors?.[0].pointer}`;
  const looked = await app.call(admin, "POST", `/v1/trust-sources/${made.body.id}/check`);
  expect(looked.status).toBe(200);
  return looked.body.ok ? "fetched" : "registered, not fetched";
}

const cases = Object.entries(urls).flatMap(([kind, all]) => all.map((text) => ({ kind, text })));

describe.each(Object.keys(fields) as Field[])("a URL that may not be fetched, as %s of a trust source", (field) => {
  test.each(cases)("$kind: $text", async ({ kind, text }) => {
    const outcome = await registerAndLook(field, atCanary(text));
    const atOnce = `400 /${field}`;
    if (kind === "loopback") expect([atOnce, "registered, not fetched"]).toContain(outcome);
    else expect(outcome).toBe(atOnce);
    expect([dialled(), canary.connections()]).toEqual([[], 0]);
  });
});

test.each(issuerPaths)("not an issuer: %s", async (text) => {
  expect(await registerAndLook("issuer", text)).toBe("400 /issuer");
});

test.each(cases)("not where a discovery document may send Mayfly: $kind: $text", async ({ text }) => {
  const issuer = "https://issuer.example";
  const asked: string[] = [];
  const fetched = fetchKeys(
    tokenSourceSchema.parse({ kind: "oidc", issuer }),
    async (url) => {
      asked.push(url);
      return { status: "fresh", document: { issuer, jwks_uri: atCanary(text) } };
    },
    undefined,
  );
  await expect(fetched).rejects.toBeInstanceOf(KeySetError);
  expect(asked).toEqual([`${issuer}/.well-known/openid-configuration`]);
});

describe("a name is judged by every address that it has, before anything is dialled", () => {
  test.each(names)("%s", async (_what, host, addresses) => {
    for (const allowLoopbackHttp of [false, true]) {
      const { resolve } = resolver(addresses);
      const safeFetch = createSafeFetch({ allowLoopbackHttp, resolve });
      expect(await problemOf(safeFetch(`https://${host}:${canary.port}/`))).toBe("address_not_allowed");
    }
    expect([dialled(), canary.connections()]).toEqual([[], 0]);
  });

  test.each([
    ["a metadata service", ["169.254.169.254"]],
    ["a private address", ["10.0.0.1"]],
    ["an address and a private one", ["127.0.0.1", "10.0.0.1"]],
    ["IPv4-mapped loopback", ["::ffff:127.0.0.1"]],
    ["nothing", []],
  ])("a name that moves to %s is dialled where it was judged, and the next time not at all", async (_what, second) => {
    await using server = await localServer(json({}));
    const { resolve, asked } = resolver(["127.0.0.1"], second);
    const safeFetch = createSafeFetch({ allowLoopbackHttp: true, resolve });
    const url = `http://localhost:${server.port}/`;
    expect(await problemOf(safeFetch(url))).toBe("fetched");
    expect([asked.length, dialled()]).toEqual([1, [`127.0.0.1 ${server.port}`]]);
    expect(await problemOf(safeFetch(url))).toBe("address_not_allowed");
    expect([asked.length, dialled()]).toEqual([2, [`127.0.0.1 ${server.port}`]]);
  });
});

describe("what an allowed host answers is not followed and not swallowed", () => {
  const safeFetch = createSafeFetch({ allowLoopbackHttp: true, timeoutMs: 30_000 });
  const hasty = createSafeFetch({ allowLoopbackHttp: true, timeoutMs: 150 });
  /** The 64 KiB that are allowed, the headers, and what the socket had already read. */
  const MAX_READ = 512 * 1024;

  test.each(redirects)("a %i to %j", async (status, location) => {
    await using server = await localServer(json({}, { location: atCanary(location) }, status));
    expect(await problemOf(safeFetch(server.origin))).toBe("redirect_refused");
    expect([dialled(), canary.connections()]).toEqual([[`127.0.0.1 ${server.port}`], 0]);
  });

  test.each(answers)("%s", async (_what, handler, becomes) => {
    await using server = await localServer(handler);
    expect(await problemOf((becomes === "timed_out" ? hasty : safeFetch)(server.origin))).toBe(becomes);
    await server.closed();
    const read = dials.filter(({ port }) => port === server.port).map(({ socket }) => socket.bytesRead);
    expect(read).toHaveLength(1);
    expect(read[0]).toBeLessThan(MAX_READ);
  });
});

describe("what is honest passes", () => {
  test.each([
    ["issuer", "https://issuer.example"],
    ["issuer", "https://issuer.example:8443/t/a"],
    ["jwks_uri", "https://keys.example/a/b?c=d"],
    ["jwks_uri", "https://93.184.216.34/keys"],
    ["bundle_url", "https://[2606:2800:220:1::1]/bundle"],
    ["bundle_url", "https://spire.xn--bcher-kva.example/"],
  ] as const)("%s %s is registered", async (field, url) => {
    expect((await register(field, url)).status).toBe(201);
  });

  test("a host that is allowed is dialled, once, where its name said, and the watch sees it", async () => {
    const { resolve } = resolver(["127.0.0.1"]);
    const safeFetch = createSafeFetch({ allowLoopbackHttp: true, resolve });
    await expect(safeFetch(`http://localhost:${canary.port}/`)).resolves.toMatchObject({ status: "fresh" });
    expect([dialled(), canary.connections()]).toEqual([[`127.0.0.1 ${canary.port}`], 1]);
  });
});

test("the corpus has at least 120 different cases", () => {
  const all = [...cases.map(({ text }) => text), ...issuerPaths];
  const others = [...names, ...redirects, ...answers].map((one) => JSON.stringify(one.slice(0, 2)));
  expect(new Set(all).size).toBe(all.length);
  expect(new Set(others).size).toBe(others.length);
  expect(all.length + others.length).toBeGreaterThanOrEqual(120);
});
