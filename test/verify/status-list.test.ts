import { deflateSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { getListFromStatusListJWT, StatusList } from "@sd-jwt/jwt-status-list";
import fc from "fast-check";
import { AccessRefused, createVerifier, type Problem, type Verifier } from "../../src/verify/index.ts";
import { decodeStatusList, statusAt } from "../../src/verify/status-list.ts";
import { json } from "../identity/local-server.ts";
import { AUDIENCE, type Broker, signingKey, startBroker } from "./broker.ts";
import { aCaller, type Caller } from "./caller.ts";

const statusesOf = (bits: number, lst: string, count: number): (number | undefined)[] => {
  const list = decodeStatusList({ bits, lst });
  if (list === undefined) throw new Error("not decoded");
  return Array.from({ length: count }, (_, index) => statusAt(list, index));
};

describe("the draft's vectors", () => {
  test("1 bit, least significant first (§4.1)", () => {
    expect(statusesOf(1, "eNrbuRgAAhcBXQ", 17)).toEqual([1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1, undefined]);
    expect(Buffer.from(decodeStatusList({ bits: 1, lst: "eNrbuRgAAhcBXQ" })?.bytes ?? []).toString("hex")).toBe("b9a3");
  });

  test("2 bits (§4.1)", () => {
    expect(statusesOf(2, "eNo76fITAAPfAgc", 13)).toEqual([1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3, undefined]);
  });

  test("1 bit, 2^20 tokens (appendix C.1)", () => {
    const lst =
      "eNrt3AENwCAMAEGogklACtKQPg9LugC9k_ACvreiogE" +
      "AAKkeCQAAAAAAAAAAAAAAAAAAAIBylgQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" +
      "AAAAAAAAAAAAAAAAAAAXG9IAAAAAAAAAPwsJAAAAAAAAAAAAAAAvhsSAAAAAAAAAAA" +
      "A7KpLAAAAAAAAAAAAAAAAAAAAAJsLCQAAAAAAAAAAADjelAAAAAAAAAAAKjDMAQAAA" +
      "ACAZC8L2AEb";
    const set = statusesOf(1, lst, 2 ** 20).flatMap((status, index) => (status === 1 ? [index] : []));
    expect(set).toEqual([0, 1993, 25460, 159495, 495669, 554353, 645645, 723232, 854545, 934534, 1000345]);
  });
});

test("lists that another implementation makes are read alike, of any width and length", () => {
  const lists = fc
    .constantFrom<1 | 2 | 4 | 8>(1, 2, 4, 8)
    .chain((bits) =>
      fc.tuple(
        fc.constant(bits),
        fc.array(fc.integer({ min: 0, max: 2 ** bits - 1 }), { minLength: 1, maxLength: 200 }),
      ),
    );
  fc.assert(
    fc.property(lists, ([bits, statuses]) => {
      // It takes whole bytes alone.
      const whole = [...statuses, ...Array.from({ length: (8 - (statuses.length % 8)) % 8 }, () => 0)];
      const lst = new StatusList(whole, bits).compressStatusList();
      expect(statusesOf(bits, lst, whole.length)).toEqual(whole);
    }),
  );
});

describe("a list", () => {
  test.each<[string, unknown]>([
    ["of 3 bits", { bits: 3, lst: "eNrbuRgAAhcBXQ" }],
    ["of bits that are a text", { bits: "1", lst: "eNrbuRgAAhcBXQ" }],
    ["that is padded", { bits: 1, lst: "eNrbuRgAAhcBXQ==" }],
    ["that is not compressed", { bits: 1, lst: "uaM" }],
    ["in gzip", { bits: 1, lst: "H4sIAAAAAAAAA9u5GAA8Ql4RAgAAAA" }],
    ["in raw DEFLATE", { bits: 1, lst: "27kYAA" }],
    ["that is cut off", { bits: 1, lst: "eNrbuRg" }],
    ["that grows to 64 MB", { bits: 1, lst: bomb() }],
    ["that is a text", "eNrbuRgAAhcBXQ"],
    ["that is nothing", null],
  ])("%s is none", (_what, claim) => {
    expect(decodeStatusList(claim)).toBeUndefined();
  });
});

describe("without a stream", () => {
  let broker: Broker;
  let caller: Caller;
  let verifier: Verifier;
  let wall: number;
  let monotonic: number;
  const problems: Problem[] = [];

  beforeAll(async () => {
    broker = await startBroker();
    caller = await aCaller();
  });
  afterAll(async () => {
    await broker[Symbol.asyncDispose]();
    expect(broker.problems).toEqual([]);
  });
  afterEach(async () => {
    await verifier.close();
  });
  const open = async (): Promise<void> => {
    wall = Date.now();
    monotonic = 1_000_000;
    problems.length = 0;
    verifier = await createVerifier(
      { issuer: broker.issuer, audience: AUDIENCE, onProblem: (problem) => problems.push(problem) },
      { wallMs: () => wall, monotonicMs: () => monotonic },
    );
  };
  const later = (ms: number): void => {
    wall += ms;
    monotonic += ms;
  };
  const serve = (statuses: Readonly<Record<number, number>>): void => {
    broker.routes.list = (_request, response) => {
      void broker.listToken({ statuses, claims: { iat: Math.floor(wall / 1000) } }).then((token) => {
        response.writeHead(200, { "content-type": "application/statuslist+jwt" }).end(token);
      });
    };
  };
  const ask = async (idx: unknown = 7, uri = `${broker.issuer}/status/1`): Promise<string> => {
    const status = { status_list: { idx, uri } };
    const token = await broker.mint({
      claims: { cnf: { jkt: caller.jkt }, status, iat: Math.floor(wall / 1000), exp: Math.floor(wall / 1000) + 600 },
    });
    const call = await caller.call(token, { claims: { iat: Math.floor(wall / 1000) } });
    return await verifier.verify(call).then(
      () => "let in",
      (error: unknown) => (error instanceof AccessRefused ? error.code : String(error)),
    );
  };

  test.each([
    [0, "let in"],
    [1, "token_revoked"],
    [2, "token_revoked"],
    [3, "token_revoked"],
  ])("status %d in the list: %s", async (status, outcome) => {
    await open();
    serve({ 7: status, 6: 1, 8: 1 });
    expect(await ask()).toBe(outcome);
    expect(verifier.state()).toMatchObject({ stream: "off", statusAgeMs: null, boundMs: 10_000 });
  });

  test("a token that is in no list is refused, and told why", async () => {
    await open();
    const token = await broker.mint({ claims: { cnf: { jkt: caller.jkt } } });
    const refused = await verifier.verify(await caller.call(token)).catch((error: unknown) => error);
    expect(refused).toMatchObject({ status: 503, code: "status_unavailable", headers: { "retry-after": "1" } });
    expect((refused as AccessRefused).detail).toContain("there is no news from the issuer, at most 10000 ms");
  });

  test("a list is fetched once for all who wait, kept for the shorter of ttl and bound, and then read again", async () => {
    await open();
    serve({});
    const before = broker.asked["list"] ?? 0;
    expect(await Promise.all(Array.from({ length: 20 }, () => ask()))).toEqual(Array(20).fill("let in"));
    expect(broker.asked["list"]).toBe(before + 1);
    serve({ 7: 1 });
    later(9_999);
    expect(await ask()).toBe("let in");
    later(1);
    expect(await ask()).toBe("token_revoked");
    expect(broker.asked["list"]).toBe(before + 2);
  });

  test("a list's ttl of no time does not make every call a fetch, and its exp ends it", async () => {
    await open();
    const seconds = Math.floor(wall / 1000);
    const text = await broker.listToken({ claims: { ttl: 0.001, iat: seconds } });
    broker.routes.list = (_request, response) =>
      void response.writeHead(200, { "content-type": "application/statuslist+jwt" }).end(text);
    const before = broker.asked["list"] ?? 0;
    await ask();
    await ask();
    expect(broker.asked["list"]).toBe(before + 1);
    const ending = await broker.listToken({ claims: { ttl: 30, iat: seconds, exp: seconds + 5 } });
    broker.routes.list = (_request, response) =>
      void response.writeHead(200, { "content-type": "application/statuslist+jwt" }).end(ending);
    later(1_001);
    expect(await ask()).toBe("let in");
    later(5_000);
    expect(await ask()).toBe("status_unavailable");
  });

  test("an issuer that is away is not asked by every call, and asked again a second later", async () => {
    await open();
    broker.routes.list = (_request, response) => void response.writeHead(500).end();
    const before = broker.asked["list"] ?? 0;
    for (let call = 0; call < 5; call += 1) expect(await ask()).toBe("status_unavailable");
    expect(broker.asked["list"]).toBe(before + 1);
    serve({});
    later(1_000);
    expect(await ask()).toBe("let in");
    expect(problems).toEqual([{ code: "list_not_read", detail: "the issuer answered with status 500" }]);
  });

  test.each([
    ["beyond the list", 8 * 1024],
    ["far beyond the list", Number.MAX_SAFE_INTEGER],
  ])("a place %s is refused", async (_what, idx) => {
    await open();
    serve({});
    expect(await ask(idx)).toBe("status_unavailable");
  });

  test.each([
    ["another host", () => "https://evil.test/t/acme/status/1"],
    ["another tenant", () => broker.issuer.replace("acme", "evil") + "/status/1"],
    ["a path outside", () => `${broker.issuer}/status/../uses`],
    ["an encoded path outside", () => `${broker.issuer}/status/%2e%2e/uses`],
    ["a backslash", () => `${broker.issuer}/status/..\\uses`],
    ["a query", () => `${broker.issuer}/status/1?time=1`],
    ["user info", () => broker.issuer.replace("http://", "http://user@") + "/status/1"],
    ["a name that begins alike", () => `${broker.issuer}/statuses/1`],
  ])("a list at %s is not fetched", async (_what, uri) => {
    await open();
    serve({});
    const before = { ...broker.asked };
    expect(await ask(7, uri())).toBe("status_unavailable");
    expect(broker.asked["list"]).toBe(before["list"]);
    expect(broker.asked["uses"]).toBe(before["uses"]);
  });

  type Malicious = (text: (parts?: Parameters<Broker["listToken"]>[0]) => Promise<string>) => Promise<string | Buffer>;
  test.each<[string, Malicious]>([
    ["of another kind", async (text) => text({ header: { typ: "at+jwt" } })],
    ["without kind", async (text) => text({ header: { typ: undefined } })],
    ["that is another list", async (text) => text({ claims: { sub: `${broker.issuer}/status/2` } })],
    ["that is of another issuer", async (text) => text({ claims: { iss: "https://evil.test" } })],
    ["signed by somebody else", async (text) => text({ key: await signingKey() })],
    [
      "signed by somebody else under the issuer's kid",
      async (text) => text({ key: { ...(await signingKey()), kid: broker.key.kid } }),
    ],
    ["that is over", async (text) => text({ claims: { iat: 1_000_000, exp: 1_000_300 } })],
    ["older than its ttl", async (text) => text({ claims: { iat: Math.floor(wall / 1000) - 60, ttl: 30 } })],
    ["of the future", async (text) => text({ claims: { iat: 4_000_000_000, exp: 4_000_000_300 } })],
    ["without iat", async (text) => text({ claims: { iat: null } })],
    ["that ends never", async (text) => text({ claims: { exp: null, ttl: null } })],
    ["with a ttl that is a text", async (text) => text({ claims: { ttl: "30" } })],
    ["without list", async (text) => text({ claims: { status_list: null } })],
    ["that is a bomb", async (text) => text({ claims: { status_list: { bits: 2, lst: bomb() } } })],
    ["that is no JWT", async () => "x"],
    ["that is not UTF-8", async () => Buffer.from([0xff, 0xfe])],
    ["of 5 MB", async () => Buffer.alloc(5 * 1024 * 1024, "a")],
  ])("a list %s is refused, and so is the call", async (_what, make) => {
    await open();
    const body = await make((parts) => broker.listToken(parts));
    broker.routes.list = (_request, response) =>
      void response.writeHead(200, { "content-type": "application/statuslist+jwt" }).end(body);
    expect(await ask()).toBe("status_unavailable");
    expect(problems).toHaveLength(1);
  });

  test.each<[string, Broker["routes"]["list"]]>([
    ["of another content type", json({ status_list: { bits: 1, lst: "eNrbuRgAAhcBXQ" } })],
    ["elsewhere", (_request, response) => void response.writeHead(302, { location: "https://evil.test/" }).end()],
    ["that is not there", json({}, {}, 404)],
    ["that never ends to begin", (_request, response) => void response.destroy()],
  ])("a list %s is refused", async (_what, handler) => {
    await open();
    broker.routes.list = handler;
    expect(await ask()).toBe("status_unavailable");
  });

  test("the same list is read by another implementation as by ours", async () => {
    const text = await broker.listToken({ statuses: { 0: 1, 7: 2, 4000: 3 } });
    const theirs = getListFromStatusListJWT(text);
    const { status_list: claim } = JSON.parse(Buffer.from(text.split(".")[1] ?? "", "base64url").toString());
    const ours = decodeStatusList(claim);
    for (let index = 0; index < 4096; index += 1) expect(ours && statusAt(ours, index)).toBe(theirs.getStatus(index));
  });
});

/** 64 KB of zlib that inflate to 64 MB. */
function bomb(): string {
  return deflateSync(Buffer.alloc(64 * 1024 * 1024), { level: 9 }).toString("base64url");
}
