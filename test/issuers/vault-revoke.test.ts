import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { type VaultHandle, vault } from "../../src/issuers/vault.ts";
import { failure, never } from "./conformance.ts";
import { type FakeVaultTarget, fakeTarget, other, reporting } from "./vault-target.ts";

let target: FakeVaultTarget;
let client: Awaited<ReturnType<typeof vault.connect>>;
beforeEach(async () => {
  target = await fakeTarget();
  client = await vault.connect(target.config);
});
afterEach(async () => {
  await client[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});

async function issued(access = [reporting]): Promise<VaultHandle> {
  const asked = target.request({ access });
  await vault.issue(client, asked);
  return asked.kept.at(-1) as VaultHandle;
}
const outcome = async (handle: VaultHandle): Promise<string> => (await vault.probe(client, handle, never())).outcome;

describe("a revoke", () => {
  test("ends every lease under the child token, and waits for Vault's queue", async () => {
    target.fake.queueTurns = 9;
    const handle = await issued([reporting, other]);
    expect([handle.leases?.length, target.fake.engines.users.size]).toEqual([2, 2]);
    await vault.revoke(client, handle, never());
    expect([target.fake.leases.size, target.fake.engines.users.size]).toEqual([0, 0]);
    expect(await vault.probe(client, handle, never())).toEqual({
      outcome: "dead",
      by: "vault_lookup",
      detail: "no child token, no lease of 2",
    });
  });

  test("of a lease that the engine does not take back fails, and is never called dead", async () => {
    const handle = await issued();
    target.fake.enginesFail = true;
    expect(await failure(vault.revoke(client, handle, never()))).toMatchObject({ code: "target_unavailable" });
    expect(await vault.probe(client, handle, never())).toEqual({
      outcome: "alive",
      by: "vault_lookup",
      detail: "still there: a lease of database/creds/reporting",
    });
    target.fake.enginesFail = false;
    await vault.revoke(client, handle, never());
    expect(await outcome(handle)).toBe("dead");
  });

  test("wakes a lease that Vault has given up on: it is asked for by name", async () => {
    const handle = await issued();
    // As an irrevocable lease: its token is gone, it is in no queue.
    target.fake.queueTurns = Number.POSITIVE_INFINITY;
    await vault.revoke(client, handle, never());
    expect(target.fake.requests.find(({ path }) => path === "sys/leases/revoke")?.data).toEqual({
      lease_id: handle.leases?.[0],
      sync: true,
    });
    expect(target.fake.engines.users.size).toBe(0);
  });

  test("of a lease that stays, whatever Vault says, ends with its time limit", async () => {
    const handle = await issued();
    target.fake.queueTurns = Number.POSITIVE_INFINITY;
    const { now } = performance;
    let skew = 0;
    performance.now = () => now.call(performance) + skew;
    target.fake.intercept = ({ path }, response) => {
      if (path === "sys/leases/lookup") skew += 2_000;
      if (path !== "sys/leases/revoke") return false;
      response.writeHead(204).end();
      return true;
    };
    try {
      expect(await failure(vault.revoke(client, handle, never()))).toMatchObject({
        code: "target_unavailable",
        detail: "Vault has not taken back yet: a lease of database/creds/reporting",
      });
    } finally {
      performance.now = now;
    }
  });

  test("that is given up on says so, and goes on where it was", async () => {
    const handle = await issued();
    target.fake.queueTurns = Number.POSITIVE_INFINITY;
    const stop = new AbortController();
    target.fake.intercept = ({ path }) => {
      if (path === "sys/leases/lookup") stop.abort();
      return false;
    };
    expect(await failure(vault.revoke(client, handle, stop.signal))).toMatchObject({ code: "target_unavailable" });
    target.fake.intercept = undefined;
    expect(await outcome(handle)).toBe("alive");
  });

  test("does not touch another's token or lease, whatever it is called", async () => {
    const [one, two] = [await issued(), await issued()];
    await vault.revoke(client, one, never());
    expect(await outcome(two)).toBe("alive");
    expect(target.fake.requests.filter(({ path }) => path.startsWith("sys/leases/revoke"))).toEqual([]);
  });
});

test("Vault itself ends it when Mayfly does not: the token and, after its queue, the lease", async () => {
  const handle = await issued();
  target.fake.advance(64);
  expect(await outcome(handle)).toBe("alive");
  target.fake.advance(2);
  for (let i = 0; i < 9; i += 1) await outcome(handle);
  expect([await outcome(handle), target.fake.engines.users.size]).toEqual(["dead", 0]);
});

test("a lease that outlives its token is alive: the accessor alone proves nothing", async () => {
  const handle = await issued();
  target.fake.queueTurns = Number.POSITIVE_INFINITY;
  for (const [id, token] of target.fake.tokens) if (token.accessor === handle.accessor) target.fake.tokens.delete(id);
  expect(await outcome(handle)).toBe("alive");
});

test("a token that is being ended is not gone yet", async () => {
  const { leases: _, ...handle } = await issued();
  target.fake.intercept = ({ path }, response) => {
    if (path !== "auth/token/lookup-accessor") return false;
    response.writeHead(403).end(JSON.stringify({ errors: ["bad token"] }));
    return true;
  };
  expect(await outcome(handle)).toBe("alive");
});

describe("only Vault's own word counts as gone", () => {
  test.each([
    ["a proxy's 404", 404, "<html>not found</html>"],
    ["a 404 in Vault's form", 404, '{"errors":[]}'],
    ["no handler for the route", 404, '{"errors":["no handler for route"]}'],
    ["a refusal", 403, '{"errors":["permission denied"]}'],
    ["another error that mentions it", 400, '{"errors":["not an invalid accessor, nor an invalid lease"]}'],
    ["several errors", 400, '{"errors":["invalid accessor","invalid lease"]}'],
    ["the words with a 500", 500, '{"errors":["invalid accessor"]}'],
    ["a lookup in another namespace", 500, '{"errors":["cannot lookup token in different namespace"]}'],
    ["a sealed Vault", 503, '{"errors":["Vault is sealed"]}'],
    ["a standby", 473, '{"errors":[]}'],
    ["a quota", 429, '{"errors":["rate limit quota exceeded"]}'],
    ["an empty 200", 200, "gone"],
  ])("%s is unknown, and a revoke fails", async (_what, status, body) => {
    const handle = await issued();
    for (const look of ["auth/token/lookup-accessor", "sys/leases/lookup"]) {
      target.fake.intercept = ({ path }, response) => {
        if (path !== look) return false;
        response.writeHead(status).end(body);
        return true;
      };
      expect(await outcome(handle)).toBe("unknown");
      const code =
        status === 429 || status === 473 || status >= 500 || status === 200 ? "target_unavailable" : "target_rejected";
      expect(await failure(vault.revoke(client, handle, never()))).toMatchObject({ code });
    }
  });

  test("a Vault that is sealed, and one that limits the rate, are tried again later", async () => {
    const handle = await issued();
    target.fake.sealed = true;
    expect(await failure(vault.revoke(client, handle, never()))).toMatchObject({ code: "target_unavailable" });
    expect(await failure(vault.issue(client, target.request()))).toMatchObject({ code: "target_unavailable" });
    target.fake.sealed = false;
    target.fake.intercept = (_seen, response) => {
      response.writeHead(429, { "retry-after": "7" }).end('{"errors":["rate limit quota exceeded"]}');
      return true;
    };
    expect(await failure(vault.issue(client, target.request()))).toMatchObject({
      code: "target_unavailable",
      retryAfterSeconds: 7,
    });
  });
});
