import type { ServerResponse } from "node:http";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { type Clock, systemClock } from "../../src/verify/clock.ts";
import {
  AccessRefused,
  createVerifier,
  type Problem,
  type Verifier,
  type VerifierOptions,
} from "../../src/verify/index.ts";
import { createKnownStatuses } from "../../src/verify/known-statuses.ts";
import { createStatusStream, type StreamLimits, streamLimits } from "../../src/verify/status-stream.ts";
import { until } from "../support/until.ts";
import { AUDIENCE, type Broker, eventsEndpoint, startBroker, TOOL_TOKEN } from "./broker.ts";
import { aCaller, type Caller } from "./caller.ts";

let broker: Broker;
let caller: Caller;
let problems: Problem[];
const open: { close(): unknown }[] = [];

beforeEach(async () => {
  broker = await startBroker();
  caller = await aCaller();
  problems = [];
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.close()));
  await broker[Symbol.asyncDispose]();
  expect(broker.problems).toEqual([]);
});

async function aVerifier(changes: Partial<VerifierOptions> = {}, clock?: Clock): Promise<Verifier> {
  const verifier = await createVerifier(
    {
      issuer: broker.issuer,
      audience: AUDIENCE,
      authorization: () => TOOL_TOKEN,
      onProblem: (problem) => problems.push(problem),
      ...changes,
    },
    clock,
  );
  open.push(verifier);
  return verifier;
}

const mint = async (jti: string, claims: Readonly<Record<string, unknown>> = {}): Promise<string> =>
  broker.mint({ claims: { jti, cnf: { jkt: caller.jkt }, ...claims } });

/** What comes of a call with this token now. */
async function outcomeOf(verifier: Verifier, token: string): Promise<string> {
  return await verifier.verify(await caller.call(token)).then(
    () => "let in",
    (error: unknown) => (error instanceof AccessRefused ? error.code : String(error)),
  );
}

const becomes = async (verifier: Verifier, token: string, outcome: string): Promise<void> =>
  void (await until(`the call is answered ${outcome}`, async () => (await outcomeOf(verifier, token)) === outcome));

const begin = (response: ServerResponse): void => void response.writeHead(200, { "content-type": "text/event-stream" });
const ALL = 'event: status\nid: c0\ndata: {"statuses":[],"complete":true,"more":false,"audiences":null}\n\n';

describe("a connected stream", () => {
  test("ends a token when it is revoked, paused and resumed, whichever was seen before", async () => {
    broker.setStatus("crd_before", 1);
    const verifier = await aVerifier();
    expect(verifier.state()).toMatchObject({ stream: "connected", boundMs: 10_000 });
    expect(await outcomeOf(verifier, await mint("crd_before"))).toBe("token_revoked");
    const [one, other] = [await mint("crd_one"), await mint("crd_other")];
    expect(await outcomeOf(verifier, one)).toBe("let in");
    broker.setStatus("crd_one", 1);
    await becomes(verifier, one, "token_revoked");
    expect(await outcomeOf(verifier, other)).toBe("let in");
    broker.setStatus("crd_one", 0);
    await becomes(verifier, one, "let in");
    broker.setStatus("crd_one", 2);
    await becomes(verifier, one, "token_revoked");
    expect(broker.asked["list"]).toBeUndefined();
  });

  test("that breaks is resumed where it was, and what was revoked meanwhile is not missed", async () => {
    const verifier = await aVerifier();
    const token = await mint("crd_one");
    broker.setStatus("crd_two", 1);
    await becomes(verifier, await mint("crd_two"), "token_revoked");
    const { events } = broker.routes;
    broker.routes.events = (_request, response) => void response.writeHead(503).end();
    broker.endStreams();
    await until("the stream is down", () => verifier.state().stream === "down");
    broker.setStatus("crd_one", 1);
    broker.routes.events = events;
    await becomes(verifier, token, "token_revoked");
    expect(await outcomeOf(verifier, await mint("crd_two"))).toBe("token_revoked");
    expect(broker.cursors).toEqual([undefined, "c1"]);
    expect(problems.length).toBeGreaterThan(0);
    expect(new Set(problems.map(({ code }) => code))).toEqual(new Set(["stream_down"]));
  });

  test("whose cursor the broker forgot is told all again, and believes that alone", async () => {
    const verifier = await aVerifier();
    broker.setStatus("crd_old", 1);
    await becomes(verifier, await mint("crd_old"), "token_revoked");
    broker.routes.events = (_request, response) => {
      begin(response);
      const statuses = [{ jti: "crd_new", status: 1, exp: broker.now() + 300 }];
      response.write(
        `event: status\nid: d9\ndata: ${JSON.stringify({ statuses, complete: true, more: false, audiences: [AUDIENCE] })}\n\n`,
      );
    };
    broker.endStreams();
    await becomes(verifier, await mint("crd_new"), "token_revoked");
    expect(await outcomeOf(verifier, await mint("crd_old"))).toBe("let in");
  });

  test.each([400, 404, 410])("whose cursor is refused with %d begins anew", async (status) => {
    const verifier = await aVerifier();
    const { events } = broker.routes;
    broker.routes.events = (request, response) => {
      if (request.headers["last-event-id"] === undefined) return events(request, response);
      response.writeHead(status).end();
    };
    broker.endStreams();
    await until("it is connected again", () => broker.cursors.length === 2 && verifier.state().stream === "connected");
    expect(broker.cursors).toEqual([undefined, undefined]);
  });

  test("is closed with the verifier", async () => {
    const verifier = await aVerifier();
    expect(broker.openStreams()).toBe(1);
    await verifier.close();
    await until("the broker sees it close", () => broker.openStreams() === 0);
    expect(verifier.state().stream).toBe("down");
  });
});

describe("a stream that tells all in parts", () => {
  const part = (ids: readonly string[], about: { complete: boolean; more: boolean }, id?: string): string => {
    const statuses = ids.map((jti) => ({ jti, status: 1, exp: broker.now() + 300 }));
    const head = id === undefined ? "event: status" : `event: status\nid: ${id}`;
    return `${head}\ndata: ${JSON.stringify({ statuses, ...about, ...(about.complete ? { audiences: [AUDIENCE] } : {}) })}\n\n`;
  };
  const alive = (): string => `event: alive\ndata: {"at_ms":${Date.now()}}\n\n`;

  test("is believed when the last one came, and not before", async () => {
    let tell = (_text: string): void => {};
    broker.routes.events = (_request, response) => {
      begin(response);
      tell = (text) => void response.write(text);
      tell(part(["crd_1"], { complete: true, more: true }) + alive());
    };
    const one = aStream({});
    await until("the first part was read", () => one.isInvalid("crd_1"));
    expect(one.isConnected()).toBe(false);
    tell(part(["crd_2"], { complete: false, more: true }) + alive());
    await until("the second part was read", () => one.isInvalid("crd_2"));
    expect(one.isConnected()).toBe(false);
    expect(one.ageMs()).toBe(Number.POSITIVE_INFINITY);
    tell(part(["crd_3"], { complete: false, more: false }, "c1"));
    await one.ready;
    expect(["crd_1", "crd_2", "crd_3"].map(one.isInvalid)).toEqual([true, true, true]);
    // All anew, because the broker lost track: what was invalid stays so until the last part says otherwise.
    tell(part(["crd_4"], { complete: true, more: true }));
    await until("the new account began", () => one.isInvalid("crd_4"));
    expect(["crd_1", "crd_2", "crd_3"].map(one.isInvalid)).toEqual([true, true, true]);
    tell(part(["crd_3"], { complete: false, more: false }, "c2"));
    await until("the new account is whole", () => !one.isInvalid("crd_1"));
    expect(["crd_2", "crd_3", "crd_4"].map(one.isInvalid)).toEqual([false, true, true]);
  });

  test("and is cut off in between is asked for all again, and what follows is not taken for the rest", async () => {
    const cursors: unknown[] = [];
    broker.routes.events = (request, response) => {
      cursors.push(request.headers["last-event-id"]);
      begin(response);
      if (cursors.length === 1) response.end(part(["crd_1"], { complete: true, more: true }));
      else response.write(part(["crd_2"], { complete: false, more: false }, "c1"));
    };
    const one = aStream({});
    await until("it was asked for again", () => cursors.length >= 3);
    expect(cursors.slice(0, 3)).toEqual([undefined, undefined, undefined]);
    expect(one.isConnected()).toBe(false);
    expect(problems.map(({ detail }) => detail)).toContain("the first status event does not tell everything");
  });

  test("keeps its cursor through events that have none, on the next connection too", async () => {
    const cursors: unknown[] = [];
    broker.routes.events = (request, response) => {
      cursors.push(request.headers["last-event-id"]);
      begin(response);
      if (cursors.length === 1) response.end(part(["crd_1"], { complete: true, more: false }, "c1") + alive());
      else if (cursors.length < 4) response.end(alive());
      else response.write(alive());
    };
    const one = aStream({});
    await until("it is connected for good", () => cursors.length === 4 && one.isConnected());
    expect(cursors).toEqual([undefined, "c1", "c1", "c1"]);
    expect(one.isInvalid("crd_1")).toBe(true);
  });
});

test("ids as long as the broker makes them are sent back", async () => {
  const longest = `1:9:${"2,".repeat(1_200)}`.slice(0, 2_500);
  const cursors: unknown[] = [];
  broker.routes.events = (request, response) => {
    cursors.push(request.headers["last-event-id"]);
    begin(response);
    response.end(ALL.replace("id: c0", `id: ${longest}`));
  };
  aStream({});
  await until("it was opened again", () => cursors.length >= 2);
  expect(cursors.slice(0, 2)).toEqual([undefined, longest]);
});

describe("a stream that is no good: nothing is let in on its word", () => {
  test.each<[string, string]>([
    ["begins with changes", 'event: status\nid: c1\ndata: {"statuses":[],"complete":false,"more":false}\n\n'],
    ["does not say whether it tells all", 'event: status\nid: c1\ndata: {"statuses":[]}\n\n'],
    [
      "says so in another type",
      'event: status\nid: c1\ndata: {"statuses":[],"complete":"true","more":false,"audiences":null}\n\n',
    ],
    ["tells all of nothing", 'event: status\nid: c1\ndata: {"complete":true,"more":false,"audiences":null}\n\n'],
    [
      "tells of no token",
      'event: status\nid: c1\ndata: {"statuses":[{"status":1,"exp":1}],"complete":true,"more":false,"audiences":null}\n\n',
    ],
    [
      "tells of no status",
      'event: status\nid: c1\ndata: {"statuses":[{"jti":"crd_1","exp":1}],"complete":true,"more":false,"audiences":null}\n\n',
    ],
    [
      "says a thing twice",
      'event: status\nid: c1\ndata: {"statuses":[],"complete":false,"complete":true,"more":false,"audiences":null}\n\n',
    ],
    ["is not JSON", "event: status\nid: c1\ndata: all is well\n\n"],
    ["is alive without a time", `${ALL}event: alive\nid: c1\ndata: {}\n\n`],
    [
      "breaks off in its first event",
      'event: status\nid: c1\ndata: {"statuses":[],"complete":true,"more":false,"audiences":null}\n',
    ],
  ])("%s", async (_what, text) => {
    broker.routes.events = (_request, response) => {
      begin(response);
      response.end(text);
    };
    const one = aStream({});
    await until("its fault was reported", () => problems.some(({ code }) => code === "stream_down"));
    expect(one.isConnected()).toBe(false);
    if (!text.startsWith(ALL)) expect(one.ageMs()).toBe(Number.POSITIVE_INFINITY);
    await until("it is opened again", () => (broker.asked["events"] ?? 0) >= 2);
  });

  test.each([
    ["a status", 'event: status\nid: c1\ndata: {"statuses":[{"jti":"crd_1"}],"complete":false,"more":false}\n\n'],
    ["a byte", Buffer.from([0xff, 0x0a, 0x0a])],
  ])("says %s that is not understood: it may have been a revocation, so all is asked for again", async (_what, bad) => {
    const cursors: unknown[] = [];
    broker.routes.events = (request, response) => {
      cursors.push(request.headers["last-event-id"]);
      begin(response);
      if (cursors.length > 1) return;
      response.write(ALL);
      response.write(bad);
    };
    const one = aStream({});
    await until("it is opened again", () => cursors.length === 2);
    expect(cursors).toEqual([undefined, undefined]);
    expect(one.ageMs()).toBe(Number.POSITIVE_INFINITY);
  });

  test("stops telling of this API: what was invalid stays so, and nothing is believed", async () => {
    let tell = (_text: string): void => {};
    broker.routes.events = (_request, response) => {
      begin(response);
      tell = (text) => void response.write(text);
      const statuses = [{ jti: "crd_1", status: 1, exp: broker.now() + 300 }];
      tell(
        `event: status\ndata: ${JSON.stringify({ statuses, complete: true, more: false, audiences: [AUDIENCE] })}\n\n`,
      );
    };
    const one = aStream({});
    await one.ready;
    broker.routes.events = (_request, response) => void response.writeHead(503).end();
    tell('event: status\ndata: {"statuses":[],"complete":true,"more":false,"audiences":[]}\n\n');
    await until("it is down", () => !one.isConnected());
    expect([one.isInvalid("crd_1"), one.ageMs()]).toEqual([true, Number.POSITIVE_INFINITY]);
    expect(problems[0]?.detail).toMatch(/does not tell of this API: the tool does not serve its target/);
  });

  test("is alive before it has told all", async () => {
    let tell = (): void => {};
    broker.routes.events = (_request, response) => {
      begin(response);
      response.write(`event: alive\nid: c7\ndata: {"at_ms":${Date.now()}}\n\n`);
      tell = () => void response.write(ALL);
    };
    const one = aStream({});
    await until("it was asked for", () => broker.asked["events"] === 1);
    expect(one.isConnected()).toBe(false);
    tell();
    await one.ready;
    expect(one.isConnected()).toBe(true);
  });

  test("is not UTF-8", async () => {
    broker.routes.events = (_request, response) => {
      begin(response);
      response.end(Buffer.concat([Buffer.from("data: "), Buffer.from([0xff, 0xfe]), Buffer.from("\n\n")]));
    };
    aStream({});
    await until("it was reported", () => problems.some(({ detail }) => detail.includes("not UTF-8")));
  });

  test("drips: bytes without an event are silence", async () => {
    const timers = new Set<NodeJS.Timeout>();
    broker.routes.events = (_request, response) => {
      begin(response);
      response.write(ALL);
      const timer = setInterval(() => response.write(":"), 20);
      timers.add(timer);
      response.on("close", () => clearInterval(timer));
    };
    const one = aStream({ silenceMs: 300 });
    await one.ready;
    await until("its silence was noticed", () => problems.some(({ detail }) => detail.includes("fell silent")));
    for (const timer of timers) clearInterval(timer);
  });

  test("never says anything", async () => {
    broker.routes.events = () => {};
    aStream({ firstEventMs: 100 });
    await until("its silence was noticed", () => problems.some(({ detail }) => detail.includes("fell silent")));
  });

  test.each([
    ["one endless line", "data: ", "x".repeat(60_000)],
    ["an event of endless lines", "", `data: ${"x".repeat(6000)}\n`],
    ["an endless comment", ":", "x".repeat(60_000)],
    ["endless comments", "", `:${"x".repeat(6000)}\n`],
  ])("sends %s: it is cut off, and memory stays bounded", async (_what, first, piece) => {
    let written = 0;
    let closed = false;
    broker.routes.events = (_request, response) => {
      begin(response);
      response.write(first);
      response.on("close", () => {
        closed = true;
      });
      const more = (): void => {
        while (!response.destroyed && !closed) {
          written += piece.length;
          if (!response.write(piece)) return void response.once("drain", more);
        }
      };
      more();
    };
    aStream({ maxEventLength: 256 * 1024 });
    await until("it was cut off", () => closed && problems.some(({ detail }) => detail.includes("too long")));
    // What is beyond the limit is in the sockets' buffers.
    expect(written).toBeLessThan(64 * 1024 * 1024);
  });

  test("tells of more tokens than are kept, at once or in the long run", async () => {
    const statuses = Array.from({ length: 11 }, (_, index) => ({ jti: `crd_${index}`, status: 1, exp: 4_000_000_000 }));
    const event = (some: object[], complete: boolean): string =>
      `event: status\nid: c1\ndata: ${JSON.stringify({ statuses: some, complete, more: false, audiences: [AUDIENCE] })}\n\n`;
    for (const text of [event(statuses, true), `${ALL}${statuses.map((one) => event([one], false)).join("")}`]) {
      problems.length = 0;
      broker.routes.events = (_request, response) => {
        begin(response);
        response.write(text);
      };
      const one = aStream({ maxInvalid: 10 });
      await until("it was reported", () => problems.some(({ detail }) => detail.includes("more than 10 tokens")));
      expect(one.isConnected()).toBe(false);
      one.close();
    }
  });

  test("is of another content type, elsewhere, or refused", async () => {
    const answers: [string, (response: ServerResponse) => void][] = [
      ["content type", (response) => void response.writeHead(200, { "content-type": "text/html" }).end(ALL)],
      ["status 302", (response) => void response.writeHead(302, { location: "https://evil.test/" }).end()],
      ["status 401", (response) => void response.writeHead(401).end()],
    ];
    for (const [detail, answer] of answers) {
      broker.routes.events = (_request, response) => answer(response);
      const one = aStream({});
      await until(`reported: ${detail}`, () => problems.some((problem) => problem.detail.includes(detail)));
      expect(one.isConnected()).toBe(false);
      one.close();
    }
  });
});

describe("news that are old", () => {
  test("are believed for the bound, and not a millisecond longer: 503, saying how old they are", async () => {
    let ahead = 0;
    const clock: Clock = { wallMs: systemClock.wallMs, monotonicMs: () => systemClock.monotonicMs() + ahead };
    const verifier = await aVerifier({ maxStatusAgeMs: 60_000 }, clock);
    const token = await mint("crd_one");
    broker.setStatus("crd_two", 1);
    await becomes(verifier, await mint("crd_two"), "token_revoked");
    broker.routes.events = (_request, response) => void response.writeHead(503).end();
    broker.endStreams();
    await until("the stream is down", () => verifier.state().stream === "down");
    expect(await outcomeOf(verifier, token)).toBe("let in");
    ahead = 61_000;
    const refused = await verifier.verify(await caller.call(token)).catch((error: unknown) => error);
    expect(refused).toMatchObject({ status: 503, code: "status_unavailable" });
    expect((refused as AccessRefused).detail).toMatch(/the last news is 6\d{4} ms old, at most 60000 ms is accepted$/);
    expect(verifier.state().statusAgeMs).toBeGreaterThan(60_000);
    // What was revoked stays so, however old.
    expect(await outcomeOf(verifier, await mint("crd_two"))).toBe("token_revoked");
  });

  test("are replaced by the token's status list while the stream is down", async () => {
    let ahead = 0;
    const clock: Clock = { wallMs: systemClock.wallMs, monotonicMs: () => systemClock.monotonicMs() + ahead };
    const verifier = await aVerifier({}, clock);
    const status = { status_list: { idx: 3, uri: `${broker.issuer}/status/1` } };
    const token = await mint("crd_one", { status });
    broker.setStatus("crd_two", 1);
    await becomes(verifier, await mint("crd_two", { status }), "token_revoked");
    broker.routes.events = (_request, response) => void response.writeHead(503).end();
    broker.endStreams();
    await until("the stream is down", () => verifier.state().stream === "down");
    ahead = 60_000;
    expect(await outcomeOf(verifier, token)).toBe("let in");
    expect(broker.asked["list"]).toBe(1);
    // The stream said so, and nobody took it back.
    expect(await outcomeOf(verifier, await mint("crd_two", { status }))).toBe("token_revoked");
    ahead += 60_000;
    broker.routes.list = (_request, response) => {
      void broker.listToken({ statuses: { 3: 1 } }).then((text) => {
        response.writeHead(200, { "content-type": "application/statuslist+jwt" }).end(text);
      });
    };
    expect(await outcomeOf(verifier, token)).toBe("token_revoked");
  });

  test("came late: something in between kept them", async () => {
    broker.routes.events = (_request, response) => {
      begin(response);
      response.write(`${ALL}event: alive\nid: c0\ndata: {"at_ms":${Date.now() - 60_000}}\n\n`);
    };
    const one = aStream({});
    await one.ready;
    await until("their age was noticed", () => one.ageMs() > 50_000);
    expect(one.isConnected()).toBe(false);
  });
});

describe("the API's own token", () => {
  test("is asked for anew for every connection, so that one that ran out is replaced", async () => {
    let asked = 0;
    const verifier = await aVerifier({
      authorization: async () => {
        asked += 1;
        return asked < 3 ? "Bearer of-yesterday" : TOOL_TOKEN;
      },
    });
    await until("it is connected", () => verifier.state().stream === "connected");
    expect(problems.map(({ detail }) => detail)).toEqual(Array(2).fill("the issuer answered with status 401"));
  });

  test.each<[string, () => string | Promise<string>]>([
    ["cannot be had", () => Promise.reject(new Error("secret-token"))],
    ["is no header", () => "Bearer secret-token\r\nx: y"],
    ["is nothing", () => undefined as never],
  ])("%s: it is down, and says nothing of the token", async (_what, authorization) => {
    aStream({}, authorization);
    await until("it was reported", () => problems.length > 0);
    expect(problems[0]?.detail).toMatch(/^authorization\(\) (failed|must give)/);
    expect(JSON.stringify(problems)).not.toContain("secret-token");
  });

  test("never comes: the attempt ends all the same", async () => {
    aStream({ firstEventMs: 50 }, () => new Promise(() => {}));
    await until("it was reported", () => problems.some(({ detail }) => detail.includes("fell silent")));
  });

  test("is given to the issuer's own origin alone", async () => {
    const elsewhere = ["https://evil.test/events", "//evil.test/e", 7];
    for (const url of elsewhere) {
      broker.routes.metadata = (_request, response) => {
        const body = { issuer: broker.issuer, jwks_uri: `${broker.issuer}/j`, mayfly_status_events_endpoint: url };
        response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body));
      };
      await expect(aVerifier()).rejects.toThrow("is not a URL of the issuer's origin");
    }
  });
});

test("what is known of tokens that are over is forgotten, with room for clocks that differ", () => {
  let wall = 1_000_000_000_000;
  const known = createKnownStatuses(AUDIENCE, { wallMs: () => wall, monotonicMs: () => wall }, 100);
  const statuses = Array.from({ length: 50 }, (_, index) => ({
    jti: `crd_${index}`,
    status: 1,
    exp: 1_000_000_000 + index,
  }));
  known.apply({
    type: "status",
    id: "c",
    data: JSON.stringify({ statuses, complete: true, more: false, audiences: [AUDIENCE] }),
  });
  wall += 20_500;
  known.forgetExpired();
  expect(statuses.filter(({ jti }) => known.isInvalid(jti)).map(({ exp }) => exp - 1_000_000_000)).toEqual(
    Array.from({ length: 39 }, (_, index) => index + 11),
  );
});

function aStream(limits: Partial<StreamLimits>, authorization: () => string | Promise<string> = () => TOOL_TOKEN) {
  const one = createStatusStream({
    endpoint: eventsEndpoint(broker),
    audience: AUDIENCE,
    authorization,
    clock: systemClock,
    onProblem: (problem) => problems.push(problem),
    limits: { ...streamLimits, ...limits },
  });
  open.push(one);
  return one;
}
