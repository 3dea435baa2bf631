import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { redis } from "../../src/issuers/redis.ts";
import { describeWithRedis } from "../support/redis.ts";
import { until } from "../support/until.ts";
import { failure, never } from "./conformance.ts";
import { type RedisTarget, redisTarget } from "./redis-target.ts";
import { wire } from "./wire.ts";

type Client = Awaited<ReturnType<typeof redis.connect>>;
let target: RedisTarget;
let client: Client;

async function start(count: number): Promise<void> {
  target = await redisTarget(count);
  client = await redis.connect(target.config);
}
afterEach(async () => {
  await client[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});

const revoke = (user: string, on: Client = client) => redis.revoke(on, { user }, never());
const probe = (user: string) => redis.probe(client, { user }, never());

async function mint() {
  const asked = target.request();
  const { secret } = await redis.issue(client, asked);
  return { user: asked.handle.user, secret };
}

describeWithRedis("a revoke on one Redis", () => {
  beforeEach(() => start(1));

  test("survives the server's end: who was taken back is not there again, and who was not still is", async () => {
    const [ended, kept] = [await mint(), await mint()];
    await revoke(ended.user);
    await target.servers[0]?.restart();
    expect(await target.users(0)).toEqual([kept.user]);
    expect(await target.works(ended.secret)).toBe(false);
    expect(await target.works(kept.secret)).toBe(true);
    await revoke(kept.user);
    await target.servers[0]?.restart();
    expect(await target.works(kept.secret)).toBe(false);
  });

  test("that was cut between the end of the user and its saving is finished by the next, though the user is gone", async () => {
    const { user, secret } = await mint();
    await target.root(0, "ACL", "DELUSER", user);
    await revoke(user);
    await target.servers[0]?.restart();
    expect(await target.works(secret)).toBe(false);
  });

  test("ends every sort of session: idle, subscribed, blocked, in a transaction", async () => {
    const asked = target.request({
      access: [
        {
          keys: [{ pattern: "notes:*", mode: "readwrite" }],
          channels: ["news:*"],
          commands: ["get", "set", "blpop", "subscribe", "multi", "exec"],
        },
      ],
    });
    const { secret } = await redis.issue(client, asked);
    const open = async () => {
      const session = await target.login(secret);
      if (session === undefined) throw new Error("it should log in");
      return session;
    };
    const [idle, subscribed, blocked, transacting] = [await open(), await open(), await open(), await open()];
    const ends = [idle, subscribed, blocked, transacting].map(
      (session) => new Promise<void>((resolve) => session.once("end", () => resolve())),
    );
    await subscribed.subscribe("news:1");
    const waits = failure(blocked.blpop("notes:queue", 0));
    await transacting.call("MULTI");
    await until("the list is waited for", async () =>
      String(await target.root(0, "CLIENT", "LIST")).includes("cmd=blpop"),
    );
    await revoke(asked.handle.user);
    expect(String(await target.root(0, "CLIENT", "LIST"))).not.toContain(asked.handle.user);
    await Promise.all([...ends, waits]);
    expect((await probe(asked.handle.user)).outcome).toBe("dead");
  });

  test("wins against a holder that logs in again and again", async () => {
    const { user, secret } = await mint();
    let stop = false;
    const holder = Array.from({ length: 8 }, async () => {
      while (!stop) (await target.login(secret).catch(() => undefined))?.disconnect();
    });
    await revoke(user);
    expect(String(await target.root(0, "CLIENT", "LIST"))).not.toContain(`user=${user}`);
    expect((await probe(user)).outcome).toBe("dead");
    stop = true;
    await Promise.all(holder);
    expect(await target.works(secret)).toBe(false);
  });

  test("of 200 at once ends all of them", async () => {
    const minted = [];
    for (let i = 0; i < 200; i += 1) minted.push(await mint());
    await Promise.all(minted.map(({ user }) => revoke(user)));
    expect(await target.users(0)).toEqual([]);
    const probes = await Promise.all(minted.map(({ user }) => probe(user)));
    expect(new Set(probes.map(({ outcome }) => outcome))).toEqual(new Set(["dead"]));
  });

  test("of what is not there makes nothing, not for a moment", async () => {
    await using line = await wire(target.servers[0]?.url ?? "");
    await using other = await redis.connect({ ...target.config, nodes: [{ host: "127.0.0.1", port: line.port }] });
    await revoke(target.request().handle.user, other);
    expect(line.sent()).toContain("GETUSER");
    expect(line.sent()).not.toContain("SETUSER");
  });

  test("touches no user but its own, and what is not of this deployment is not listed", async () => {
    const { user } = await mint();
    const others = [`${user}0`, user.replace(/mfy_[a-z0-9]+_/, "mfy_other_"), `x${user}`, user.slice(0, -1)];
    for (const other of others) await target.root(0, "ACL", "SETUSER", other, "on", "nopass", "+ping");
    expect((await redis.list?.(client, never()))?.map(({ downstreamName }) => downstreamName)).toEqual([user]);
    await revoke(user);
    expect(await redis.list?.(client, never())).toEqual([]);
    const left = (await target.root(0, "ACL", "USERS")) as string[];
    expect(left).toEqual(expect.arrayContaining(others));
  });

  test("goes on when the server closed the connections that were kept", async () => {
    const { user, secret } = await mint();
    await revoke((await mint()).user);
    await target.root(0, "CLIENT", "KILL", "USER", target.config.user);
    await revoke(user);
    await target.root(0, "CLIENT", "KILL", "USER", target.config.user);
    expect((await probe(user)).outcome).toBe("dead");
    expect(await target.works(secret)).toBe(false);
  });

  test("that may not save says so, and another once it may", async () => {
    const { user } = await mint();
    await target.root(0, "ACL", "SETUSER", target.config.user, "-acl|save");
    expect(await failure(revoke(user))).toMatchObject({ code: "target_rejected" });
    await target.root(0, "ACL", "SETUSER", target.config.user, "+acl|save");
    await revoke(user);
    expect((await probe(user)).outcome).toBe("dead");
  });
});

describeWithRedis("a create that is held up on its way", () => {
  beforeEach(() => start(1));

  async function held() {
    const line = await wire(target.servers[0]?.url ?? "");
    const slow = await redis.connect({ ...target.config, nodes: [{ host: "127.0.0.1", port: line.port }] });
    const stop = new AbortController();
    const asked = target.request({ signal: stop.signal });
    const kept = line.hold("SETUSER");
    const issued = failure(redis.issue(slow, asked));
    await kept;
    stop.abort();
    expect(await issued).toMatchObject({ code: "target_unavailable" });
    return {
      user: asked.handle.user,
      line,
      async [Symbol.asyncDispose]() {
        await slow[Symbol.asyncDispose]();
        await line[Symbol.asyncDispose]();
      },
    };
  }

  test("would take effect: it is not called dead while it may", async () => {
    await using late = await held();
    expect((await probe(late.user)).outcome).toBe("unknown");
    late.line.pass();
    await until("it takes effect", async () => (await target.users(0)).includes(late.user));
    expect((await probe(late.user)).outcome).toBe("alive");
    await revoke(late.user);
    expect((await probe(late.user)).outcome).toBe("dead");
  });

  test("never takes effect once a revoke is over", async () => {
    await using late = await held();
    await revoke(late.user);
    expect((await probe(late.user)).outcome).toBe("dead");
    late.line.pass();
    for (let look = 0; look < 30; look += 1) expect(await target.users(0)).toEqual([]);
    expect((await probe(late.user)).outcome).toBe("dead");
  });

  test("does not take the other connections of the broker with it", async () => {
    await using late = await held();
    const busy = await mint();
    await revoke(late.user);
    expect(await target.works(busy.secret)).toBe(true);
    expect((await probe(busy.user)).outcome).toBe("alive");
  });
});

describeWithRedis("a revoke on three nodes", () => {
  beforeEach(() => start(3));

  test("is not over, and nothing is dead, while a node does not answer", async () => {
    const { user, secret } = await mint();
    await target.servers[2]?.kill();
    expect(await failure(revoke(user))).toMatchObject({ code: "target_unavailable" });
    expect((await probe(user)).outcome).toBe("unknown");
    expect(await failure(redis.issue(client, target.request()))).toMatchObject({ code: "target_unavailable" });
    await target.servers[2]?.restart();
    expect(await target.login(secret, 0)).toBeUndefined();
    expect((await probe(user)).outcome).toBe("alive");
    await revoke(user);
    expect(await target.works(secret)).toBe(false);
    expect((await probe(user)).outcome).toBe("dead");
  });

  test("finds what is left on one of them", async () => {
    const { user } = await mint();
    await target.root(0, "ACL", "DELUSER", user);
    await target.root(2, "ACL", "DELUSER", user);
    expect((await probe(user)).outcome).toBe("alive");
    expect(await redis.list?.(client, never())).toHaveLength(1);
    await revoke(user);
    expect((await probe(user)).outcome).toBe("dead");
    for (const index of [0, 1, 2]) expect(await target.users(index)).toEqual([]);
  });

  test("of a create that one node refused leaves none on the others", async () => {
    await target.root(1, "ACL", "SETUSER", target.config.user, "-acl|setuser");
    const asked = target.request();
    expect(await failure(redis.issue(client, asked))).toMatchObject({ code: "target_rejected" });
    expect(await target.users(0)).toEqual([asked.handle.user]);
    await revoke(asked.handle.user);
    for (const index of [0, 1, 2]) expect(await target.users(index)).toEqual([]);
  });

  test("reaches a replica, which takes no writes of keys and no users from its primary", async () => {
    await target.root(1, "REPLICAOF", "127.0.0.1", String(target.servers[0]?.port));
    const { user, secret } = await mint();
    expect(await target.users(1)).toEqual([user]);
    const session = await target.login(secret, 1);
    const ended = new Promise<void>((resolve) => session?.once("end", () => resolve()));
    await revoke(user);
    await ended;
    expect(await target.login(secret, 1)).toBeUndefined();
    await target.servers[1]?.restart();
    expect(await target.login(secret, 1)).toBeUndefined();
    expect((await probe(user)).outcome).toBe("dead");
  });
});
