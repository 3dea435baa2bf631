import { readFile } from "node:fs/promises";
import { describe, expect, test } from "@jest/globals";
import { redis } from "../../src/issuers/redis.ts";
import { rulesOf } from "../../src/issuers/redis-access.ts";
import { adminSetup } from "../../src/issuers/redis-inspect.ts";

const keys = [{ pattern: "notes:*", mode: "read" }];
const commands = ["get"];

describe("access leaves no way out of its selector", () => {
  const patterns = [
    "*",
    "?",
    "allkeys",
    "ALLKEYS",
    "allchannels",
    "nopass",
    "reset",
    "on",
    "~*",
    "%RW~*",
    "%R~x",
    "&*",
    "+@all",
    "-@all",
    "@all",
    ">x",
    "<x",
    "#aa",
    "!aa",
    "a b",
    "a ~*",
    "a) (~* +@all",
    "(a",
    "a)",
    "a\tb",
    "a\r\nACL SETUSER x",
    "a\nb",
    "a\0b",
    "notes:*\n",
    "\u212aeys",
    "a\u00a0b",
    "ａllkeys",
    "notes:\u202e*",
    '"a"',
    "a'b",
    "a\\*",
    "[a-z]*",
    "a[^b]",
    "a*b*c*d*e*f",
    "",
    "a".repeat(129),
    "*:a",
    "?a",
  ];
  test.each(patterns)("key or channel %j", (pattern) => {
    expect(redis.access.safeParse({ keys: [{ pattern, mode: "read" }], commands }).success).toBe(false);
    expect(redis.access.safeParse({ keys, channels: [pattern], commands }).success).toBe(false);
  });

  test.each(["%RW~", "rw", "all", "READ", "", "read ~*"])("mode %j", (mode) => {
    expect(redis.access.safeParse({ keys: [{ pattern: "notes:*", mode }], commands }).success).toBe(false);
  });

  test.each([
    "+get",
    "-get",
    "@all",
    "+@all",
    "@admin",
    "@dangerous",
    "@scripting",
    "@keyspace",
    "@connection",
    "@nosuch",
    "@READ",
    "@read ~*",
    "allcommands",
    "nopass",
    "GET",
    "get set",
    "get\r\nset",
    "get)",
    "(get",
    "get|",
    "|get",
    "config|get|x",
    "acl",
    "acl|whoami",
    "acl|setuser",
    "config",
    "config|get",
    "debug",
    "module",
    "module|load",
    "shutdown",
    "eval",
    "evalsha",
    "eval_ro",
    "fcall",
    "function|load",
    "script|load",
    "replicaof",
    "slaveof",
    "keys",
    "scan",
    "randomkey",
    "flushall",
    "flushdb",
    "swapdb",
    "migrate",
    "restore",
    "sort",
    "monitor",
    "client",
    "client|kill",
    "client|list",
    "pubsub",
    "pubsub|channels",
    "pubsub|numsub",
    "cluster|failover",
    "ｇet",
    "",
    "a".repeat(33),
  ])("command %j", (command) => {
    const refused = !redis.access.safeParse({ keys, commands: [command] }).success;
    // A word without power may pass here; the server does not know it then (inspection), and it stays a command.
    expect(
      refused ||
        rulesOf([{ keys: [], commands: [command] }], "")
          .at(-1)
          ?.includes(`+${command} `),
    ).toBe(true);
    expect(refused).toBe(!["allcommands", "nopass"].includes(command));
  });

  test("what is of use passes", () => {
    const access = {
      keys: [
        { pattern: "notes:*", mode: "read" },
        { pattern: "{user:1}/a-b_c.?", mode: "readwrite" },
      ],
      channels: ["news:*"],
      commands: ["@read", "@sortedset", "get", "xinfo|stream", "json.get", "client|setinfo", "ping"],
    };
    expect(redis.access.parse(access)).toEqual(access);
  });

  test("nothing to reach, or nothing to run, is no access", () => {
    expect(redis.access.safeParse({ keys: [], commands }).success).toBe(false);
    expect(redis.access.safeParse({ keys, commands: [] }).success).toBe(false);
  });
});

describe("the config", () => {
  const config = { nodes: [{ host: "127.0.0.1", port: 6379 }], user: "mayfly", password: "p", tls: "disable" };

  test("keeps passwords off a network without TLS", () => {
    expect(redis.config.safeParse(config).success).toBe(true);
    const far = [{ host: "127.0.0.1" }, { host: "redis.example" }];
    expect(redis.config.safeParse({ ...config, nodes: far }).success).toBe(false);
    expect(redis.config.safeParse({ ...config, nodes: far, tls: "verify-full" }).success).toBe(true);
    expect(redis.config.safeParse({ ...config, nodes: [{ host: "127.0.0.1.example" }] }).success).toBe(false);
  });

  test.each([
    { nodes: [] },
    { nodes: Array.from({ length: 17 }, () => ({ host: "localhost" })) },
    { nodes: [{ host: "a b" }] },
    { nodes: [{ host: "localhost/x" }] },
    { user: "a b" },
    { user: "a\r\n" },
    { user: "" },
    { password: "" },
    { tls: "require" },
    { deployment: "a_b" },
    { deployment: "ABC" },
    { deployment: "" },
    { ca: "not PEM" },
  ])("%j is refused", (change) => {
    expect(redis.config.safeParse({ ...config, ...change }).success).toBe(false);
  });

  test.each([
    "default",
    "mfy_a_b",
    `mfy_a_${"0".repeat(31)}`,
    `mfy_a_${"0".repeat(32)}\n`,
    `x_a_${"0".repeat(32)}`,
    `mfy_a_${"0".repeat(32)} on`,
  ])("a handle is a name of ours, and not %j", (user) => {
    expect(redis.handle.safeParse({ user }).success).toBe(false);
  });
});

test("the documentation shows the admin's rights as they are checked", async () => {
  const page = await readFile(new URL("../../docs/issuers/redis.md", import.meta.url), "utf8");
  expect(page).toContain(`\n${adminSetup("mayfly_admin")}\n`);
});
