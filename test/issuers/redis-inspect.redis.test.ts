import { createHash } from "node:crypto";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, jest, test } from "@jest/globals";
import { type RedisConfig, redis } from "../../src/issuers/redis.ts";
import type { RedisAccess } from "../../src/issuers/redis-access.ts";
import { adminSetup } from "../../src/issuers/redis-inspect.ts";
import type { MayflyError } from "../../src/lib/errors.ts";
import { testDirectory } from "../support/directory.ts";
import { describeWithRedis, testRedis } from "../support/redis.ts";
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

  /** Runs what a refusal says to run, on the node that it names. */
  async function follow(error: unknown): Promise<void> {
    const [, port, command = ""] = /^127\.0\.0\.1:(\d+): .*: (ACL [^:]*)$/.exec((error as MayflyError).detail) ?? [];
    const server = target.servers.findIndex((one) => `${one.port}` === port);
    await target.root(server, ...(command.split(" ") as [string, ...string[]]));
  }

  test.each(rights)("names the right %s and the node that lacks it, and the command that gives it", async (right) => {
    await target.root(1, "ACL", "SETUSER", target.config.user, `-${right}`);
    const error = await failure(inspected(target.config));
    expect(error).toMatchObject({
      code: "target_refused",
      detail: `127.0.0.1:${target.servers[1]?.port}: the admin may not run ${right}: ACL SETUSER ${target.config.user} +${right}`,
    });
    await follow(error);
    expect(await inspected(target.config)).toBeUndefined();
  });

  test("names all rights at once that are missing", async () => {
    await target.root(0, "ACL", "SETUSER", target.config.user, "-acl|save", "-client|kill", "-multi");
    const error = await failure(inspected(target.config));
    expect(error).toMatchObject({ detail: expect.stringContaining("may not run acl|save, client|kill, multi:") });
    await follow(error);
    expect(await inspected(target.config)).toBeUndefined();
  });

  test("refuses a server that anybody may enter, and says how to close it", async () => {
    await target.root(1, "ACL", "SETUSER", "default", "on", "nopass");
    const error = await failure(inspected(target.config));
    expect(error).toMatchObject({ code: "target_refused", detail: expect.stringContaining("ACL SETUSER default off") });
    await follow(error);
    expect(await inspected(target.config)).toBeUndefined();
  });

  test.each<[string, Partial<RedisConfig>, string, string]>([
    ["another password", { password: "not the password" }, "target_rejected", "user or password"],
    ["a user that is not there", { user: "nobody" }, "target_rejected", "user or password"],
    ["a port where nobody listens", { nodes: [{ host: "127.0.0.1", port: 1 }] }, "target_unavailable", "ECONNREFUSED"],
    ["a host that is not there", { nodes: [{ host: "none.invalid", port: 1 }] }, "target_unavailable", "(E"],
  ])("refuses %s for what it is", async (_what, changes, code, detail) => {
    expect(await failure(inspected({ ...target.config, ...changes }))).toMatchObject({
      code,
      detail: expect.stringContaining(detail),
    });
  });

  test("of several nodes names the one that does not answer", async () => {
    const nodes = [...target.config.nodes, { host: "localhost", port: 1 }];
    expect(await failure(inspected({ ...target.config, nodes }))).toMatchObject({
      code: "target_unavailable",
      detail: "localhost:1: Redis did not answer (ECONNREFUSED)",
    });
  });

  test("refuses a server that is too old to have users, and prints nothing", async () => {
    const warned = jest.spyOn(console, "warn").mockImplementation(() => undefined);
    const old = "-ERR wrong number of arguments for 'auth' command\r\n";
    await using relay = await answering(target.servers[0]?.port ?? 0, "AUTH", "", old);
    const config = { ...target.config, nodes: [{ host: "127.0.0.1", port: relay.port }] };
    expect(await failure(inspected(config))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("7.0 or newer"),
    });
    expect(warned).not.toHaveBeenCalled();
    warned.mockRestore();
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

  test("refuses a server without an ACL file, where a restart undoes a revoke, until it has one", async () => {
    const { user, password } = target.config;
    const sha256 = createHash("sha256").update(password).digest("hex");
    await using directory = await testDirectory();
    const file = join(directory.path, "users.acl");
    // As the documentation says it, and nothing else.
    await writeFile(file, `user default off\n${adminSetup(user, sha256).replace("ACL SETUSER", "user")}\n`);
    const at = (port: number): RedisConfig => ({ ...target.config, nodes: [{ host: "127.0.0.1", port }] });
    {
      const rules = adminSetup(user, sha256).split(" ").slice(2);
      await using server = await testRedis(["--user", ...rules, "--user", "default", "off"]);
      expect(await failure(inspected(at(server.port)))).toMatchObject({
        code: "target_refused",
        detail: expect.stringContaining("set aclfile in redis.conf and restart it"),
      });
    }
    await using server = await testRedis(["--aclfile", file]);
    expect(await inspected(at(server.port))).toBeUndefined();
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
