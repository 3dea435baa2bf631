import { once } from "node:events";
import { type AddressInfo, connect, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { inspect } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { redis } from "../../src/issuers/redis.ts";
import type { RedisAccess } from "../../src/issuers/redis-access.ts";
import { Secret } from "../../src/lib/secret.ts";
import { describeWithRedis } from "../support/redis.ts";
import { certificateFor } from "./certificate.ts";
import { failure, never } from "./conformance.ts";
import { notes, type RedisTarget, redisTarget } from "./redis-target.ts";
import { wire } from "./wire.ts";

describeWithRedis("a credential of Redis", () => {
  let target: RedisTarget;
  let client: Awaited<ReturnType<typeof redis.connect>>;
  beforeAll(async () => {
    target = await redisTarget();
    client = await redis.connect(target.config);
  });
  afterAll(async () => {
    await client[Symbol.asyncDispose]();
    await target[Symbol.asyncDispose]();
  });

  /** What each command is answered with, for a holder of this access: a refusal's first word, or `ok`. */
  async function tries(access: readonly RedisAccess[], commands: readonly [string, ...string[]][]) {
    const { secret } = await redis.issue(client, target.request({ access }));
    const holder = await target.login(secret);
    const answers = [];
    for (const [name, ...args] of commands) {
      const answer = holder?.call(name, ...args).then(
        () => "ok",
        (error: Error) => error.message.split(" ")[0],
      );
      answers.push(await answer);
    }
    holder?.disconnect();
    return answers;
  }

  test("reads what it may read, writes what it may write, and no more", async () => {
    const access: RedisAccess = {
      keys: [
        { pattern: "in:*", mode: "read" },
        { pattern: "out:*", mode: "write" },
      ],
      commands: ["get", "set", "getset"],
    };
    expect(
      await tries(
        [access],
        [
          ["GET", "in:1"],
          ["SET", "in:1", "x"],
          ["SET", "out:1", "x"],
          ["GET", "out:1"],
          ["GETSET", "out:1", "x"],
          ["GET", "other"],
          ["DEL", "out:1"],
          ["PUBLISH", "in:1", "x"],
        ],
      ),
    ).toEqual(["ok", "NOPERM", "ok", "NOPERM", "NOPERM", "NOPERM", "NOPERM", "NOPERM"]);
  });

  test("of two grants does not run the commands of one on the keys or channels of the other", async () => {
    const access: RedisAccess[] = [
      { keys: [{ pattern: "a:*", mode: "readwrite" }], channels: ["a:*"], commands: ["get"] },
      { keys: [{ pattern: "b:*", mode: "readwrite" }], channels: ["b:*"], commands: ["set", "publish"] },
    ];
    expect(
      await tries(access, [
        ["GET", "a:1"],
        ["SET", "a:1", "x"],
        ["GET", "b:1"],
        ["SET", "b:1", "x"],
        ["PUBLISH", "a:1", "x"],
        ["PUBLISH", "b:1", "x"],
      ]),
    ).toEqual(["ok", "NOPERM", "NOPERM", "ok", "NOPERM", "ok"]);
  });

  test("with whole categories still has no power over the server, and over no key or channel that it does not name", async () => {
    const access: RedisAccess = {
      keys: [{ pattern: "a:*", mode: "readwrite" }],
      channels: ["a:*"],
      commands: ["@read", "@write", "@string", "@set", "@list", "@sortedset", "@stream", "@pubsub", "@transaction"],
    };
    const commands: [string, ...string[]][] = [
      ["FLUSHALL"],
      ["FLUSHDB"],
      ["SWAPDB", "0", "1"],
      ["KEYS", "*"],
      ["SCAN", "0"],
      ["RANDOMKEY"],
      ["DBSIZE"],
      ["SORT", "a:1", "BY", "nosort", "GET", "other"],
      ["EVAL", "return 1", "0"],
      ["FUNCTION", "FLUSH"],
      ["CONFIG", "GET", "*"],
      ["ACL", "LIST"],
      ["ACL", "WHOAMI"],
      ["CLIENT", "LIST"],
      ["MONITOR"],
      ["SHUTDOWN"],
      ["REPLICAOF", "NO", "ONE"],
      ["MIGRATE", "127.0.0.1", "1", "a:1", "0", "10"],
      ["RESTORE", "a:1", "0", "x"],
      ["INFO"],
      ["PUBSUB", "CHANNELS"],
      ["PUBSUB", "SHARDCHANNELS"],
      ["PUBSUB", "NUMSUB", "other"],
      ["PUBSUB", "NUMPAT"],
      ["RENAME", "a:1", "b:1"],
    ];
    expect(new Set(await tries([access], commands))).toEqual(new Set(["NOPERM"]));
    expect(
      await tries(
        [access],
        [
          ["PUBLISH", "a:1", "x"],
          ["SUBSCRIBE", "a:1"],
        ],
      ),
    ).toEqual(["ok", "ok"]);
  });

  test("that was asked for with a command of power, past the schema, does not have it", async () => {
    const access: RedisAccess = { ...notes, commands: ["flushall", "config|get", "eval", "get"] };
    const commands: [string, ...string[]][] = [["FLUSHALL"], ["CONFIG", "GET", "*"], ["EVAL", "return 1", "0"]];
    expect(await tries([access], [...commands, ["GET", "notes:1"]])).toEqual(["NOPERM", "NOPERM", "NOPERM", "ok"]);
  });

  test("has a password that went over no wire and stands in no list of users", async () => {
    await using line = await wire(target.servers[0]?.url ?? "");
    await using other = await redis.connect({ ...target.config, nodes: [{ host: "127.0.0.1", port: line.port }] });
    const { secret } = await redis.issue(other, target.request());
    const password = secret["password"] instanceof Secret ? secret["password"].reveal() : "";
    expect(Buffer.from(password, "base64url")).toHaveLength(32);
    expect(line.sent()).toContain("SETUSER");
    expect(line.sent()).not.toContain(password);
    expect(inspect(await target.root(0, "ACL", "LIST"), { depth: 9 })).not.toContain(password);
  });

  test("is handed out with every node, and an address to log in with", async () => {
    const { secret } = await redis.issue(client, target.request());
    const { username, password, url, ...plain } = secret;
    const at = `127.0.0.1:${target.servers[0]?.port}`;
    expect(plain).toEqual({ host: "127.0.0.1", port: target.servers[0]?.port, nodes: at });
    expect(url instanceof Secret && password instanceof Secret && url.reveal()).toBe(
      `redis://${String(username)}:${(password as Secret).reveal()}@${at}`,
    );
  });

  test("that is refused comes with an error that repeats nothing of what was sent", async () => {
    const access: RedisAccess = { ...notes, commands: ["nosuchcommand"] };
    const asked = target.request({ access: [access] });
    const error = await failure(redis.issue(client, asked));
    expect(error).toMatchObject({ code: "target_rejected", detail: "Redis refused (ERR)", cause: undefined });
    expect(inspect(error, { depth: 9, showHidden: true })).not.toMatch(/nosuchcommand|#[0-9a-f]{64}|SETUSER/);
    expect(await target.users(0)).not.toContain(asked.handle.user);
  });

  test("is not made after its time, though the first answer comes in time", async () => {
    await using line = await wire(target.servers[0]?.url ?? "");
    await using other = await redis.connect({ ...target.config, nodes: [{ host: "127.0.0.1", port: line.port }] });
    const asked = target.request({ createWithinMs: 150 });
    const kept = line.hold("SETNAME");
    const issued = failure(redis.issue(other, asked));
    await kept;
    expect(await issued).toMatchObject({ code: "target_unavailable" });
    line.pass();
    await redis.revoke(client, asked.handle, never());
    expect(line.sent()).not.toContain("SETUSER");
    expect((await redis.probe(client, asked.handle, never())).outcome).toBe("dead");
  });

  describe("over TLS", () => {
    const certificate = certificateFor("127.0.0.1");
    async function tls(): Promise<{ port: number } & AsyncDisposable> {
      const open = new Set<Socket>();
      const server = createTlsServer(certificate, (socket) => {
        const inner = connect(target.servers[0]?.port ?? 0, "127.0.0.1");
        for (const one of [socket, inner]) open.add(one.on("error", () => undefined));
        socket.pipe(inner).pipe(socket);
      });
      server.on("tlsClientError", () => undefined);
      await once(server.listen(0, "127.0.0.1"), "listening");
      return {
        port: (server.address() as AddressInfo).port,
        async [Symbol.asyncDispose]() {
          for (const socket of open) socket.destroy();
          await new Promise((closed) => server.close(closed));
        },
      };
    }

    test("works with the authority that is named, and not without it", async () => {
      await using relay = await tls();
      const config = {
        ...target.config,
        nodes: [{ host: "127.0.0.1", port: relay.port }],
        tls: "verify-full" as const,
      };
      await using trusting = await redis.connect({ ...config, ca: certificate.cert });
      const asked = target.request();
      const { secret } = await redis.issue(trusting, asked);
      expect(await target.works(secret)).toBe(true);
      expect(secret["url"] instanceof Secret && secret["url"].reveal()).toMatch(/^rediss:/);
      await redis.revoke(trusting, asked.handle, never());
      await using doubting = await redis.connect(config);
      expect(await failure(redis.issue(doubting, target.request()))).toMatchObject({ code: "target_rejected" });
      expect((await redis.probe(doubting, asked.handle, never())).outcome).toBe("unknown");
    });

    test("is not spoken to a certificate of another name", async () => {
      await using relay = await tls();
      const nodes = [{ host: "localhost", port: relay.port }];
      await using other = await redis.connect({ ...target.config, nodes, tls: "verify-full", ca: certificate.cert });
      expect(await failure(redis.issue(other, target.request()))).toMatchObject({ code: "target_rejected" });
    });
  });
});
