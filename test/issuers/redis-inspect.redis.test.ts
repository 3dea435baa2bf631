import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type RedisConfig, redis } from "../../src/issuers/redis.ts";
import type { RedisAccess } from "../../src/issuers/redis-access.ts";
import { adminSetup } from "../../src/issuers/redis-inspect.ts";
import { describeWithRedis } from "../support/redis.ts";
import { failure, never } from "./conformance.ts";
import { notes, type RedisTarget, redisTarget } from "./redis-target.ts";

async function inspected(config: RedisConfig, access: readonly RedisAccess[] = [notes]): Promise<unknown> {
  await using client = await redis.connect(config);
  return redis.inspect?.(client, access, never());
}

describeWithRedis("inspection", () => {
  let target: RedisTarget;
  beforeAll(async () => {
    target = await redisTarget(2);
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  const rights = adminSetup("x")
    .split(" ")
    .filter((word) => word.startsWith("+"))
    .map((word) => word.slice(1));

  test.each(rights)(
    "names the right %s when one node lacks it, and the command that gives all of them",
    async (right) => {
      await target.root(1, "ACL", "SETUSER", target.config.user, `-${right}`);
      const error = await failure(inspected(target.config));
      expect(error).toMatchObject({ code: "target_refused" });
      // Without the right to ask for rights, the first is in doubt.
      if (right !== "acl|dryrun")
        expect(error).toMatchObject({ detail: expect.stringContaining(`may not run ${right}:`) });
      expect(error).toMatchObject({ detail: expect.stringContaining(adminSetup(target.config.user)) });
      await target.root(1, "ACL", "SETUSER", target.config.user, `+${right}`);
      expect(await inspected(target.config)).toBeUndefined();
    },
  );

  test("refuses a server that anybody may enter", async () => {
    await target.root(1, "ACL", "SETUSER", "default", "on", "nopass");
    expect(await failure(inspected(target.config))).toMatchObject({
      code: "target_refused",
      detail: expect.stringContaining("ACL SETUSER default off"),
    });
    await target.root(1, "ACL", "SETUSER", "default", "off");
  });

  test.each([
    ["nosuch", "does not know the command nosuch"],
    ["get|nosuch", "does not know the command get|nosuch"],
    ["@nosuch", "does not know @nosuch"],
    ["flushall", "flushall is @dangerous"],
    ["config|get", "config|get is @admin"],
    ["eval", "eval is @scripting"],
  ])("refuses the command %s by what the server says of it", async (command, detail) => {
    const error = await failure(inspected(target.config, [notes, { ...notes, commands: ["get", command] }]));
    expect(error).toMatchObject({ code: "target_refused", detail: expect.stringContaining(detail) });
  });

  test("refuses a server without an ACL file, where a restart undoes a revoke", async () => {
    const { port } = target.servers[0] ?? { port: 0 };
    await using relay = await answering(port, "ACL", "SAVE", NO_FILE);
    const config = { ...target.config, nodes: [{ host: "127.0.0.1", port: relay.port }] };
    expect(await failure(inspected(config))).toMatchObject({
      code: "target_refused",
      detail: expect.stringContaining("aclfile"),
    });
  });

  describe.each([
    ["6.2.14", "standalone", "7.0 or newer"],
    ["5", "standalone", "7.0 or newer"],
    ["7.2.0", "sentinel", "Sentinel"],
  ])("Redis %s as %s", (version, mode, detail) => {
    test("is refused", async () => {
      const hello = ["server", "redis", "version", version, "mode", mode];
      const answer = `*${hello.length}\r\n${hello.map((word) => `$${word.length}\r\n${word}\r\n`).join("")}`;
      await using relay = await answering(target.servers[0]?.port ?? 0, "HELLO", "", answer);
      const config = { ...target.config, nodes: [{ host: "127.0.0.1", port: relay.port }] };
      expect(await failure(inspected(config))).toMatchObject({
        code: "target_refused",
        detail: expect.stringContaining(detail),
      });
    });
  });
});

/** As Redis 7.0.15 says it. */
const NO_FILE =
  "-ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.\r\n";

/** A relay that answers one command itself, with what another server would say. */
async function answering(
  port: number,
  name: string,
  sub: string,
  answer: string,
): Promise<{ readonly port: number } & AsyncDisposable> {
  const { connect } = await import("node:net");
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    const inner = connect(port, "127.0.0.1");
    for (const one of [socket, inner]) open.add(one.on("error", () => undefined));
    socket.on("data", (chunk: Buffer) => {
      const text = chunk.toString("latin1");
      if (text.includes(`\r\n${name}\r\n`) && text.includes(sub)) socket.write(answer);
      else inner.write(chunk);
    });
    inner.pipe(socket);
    socket.on("close", () => inner.destroy());
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      await new Promise((closed) => server.close(closed));
    },
  };
}
