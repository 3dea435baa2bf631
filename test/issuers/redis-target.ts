import { createHash, randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Redis } from "ioredis";
import type { Issued, IssueRequest } from "../../src/issuers/issuer.ts";
import { type RedisConfig, type RedisHandle, redis } from "../../src/issuers/redis.ts";
import type { RedisAccess } from "../../src/issuers/redis-access.ts";
import { adminSetup } from "../../src/issuers/redis-inspect.ts";
import { newId } from "../../src/lib/ids.ts";
import { Secret } from "../../src/lib/secret.ts";
import { testDirectory } from "../support/directory.ts";
import { type TestRedis, testRedis } from "../support/redis.ts";
import { never } from "./conformance.ts";

/** A target of one test file's own: servers with an ACL file and an admin set up as the documentation says. */
export interface RedisTarget extends AsyncDisposable {
  readonly config: RedisConfig;
  readonly servers: readonly TestRedis[];
  /** Runs a command as the superuser of one server. */
  root(server: number, ...command: [string, ...string[]]): Promise<unknown>;
  /** Logs in with a credential at one server. Undefined when it is refused. */
  login(secret: Issued["secret"], server?: number): Promise<Redis | undefined>;
  /** Whether a credential reads and writes its keys, and reaches no other, on each server. */
  works(secret: Issued["secret"]): Promise<boolean>;
  /** The users of this deployment on one server. */
  users(server: number): Promise<readonly string[]>;
  /** What `issue` is asked for, and its handle. */
  request(changes?: Partial<IssueRequest<RedisAccess, RedisHandle>>): IssueRequest<RedisAccess, RedisHandle>;
}

export const notes: RedisAccess = {
  keys: [{ pattern: "notes:*", mode: "readwrite" }],
  channels: ["news:*"],
  commands: ["@read", "@string", "subscribe", "ping"],
};

export async function redisTarget(count = 1, args: readonly string[] = []): Promise<RedisTarget> {
  const directory = await testDirectory();
  const password = randomBytes(16).toString("hex");
  const rootPassword = randomBytes(16).toString("hex");
  const servers = await Promise.all(
    Array.from({ length: count }, async (_, index) => {
      const file = join(directory.path, `users-${index}.acl`);
      await writeFile(file, `user default off\nuser root on >${rootPassword} ~* &* +@all\n`);
      return testRedis(["--aclfile", file, ...args]);
    }),
  );
  const config = redis.config.parse({
    nodes: servers.map(({ port }) => ({ host: "127.0.0.1", port })),
    user: "mayfly_admin",
    password,
    tls: "disable",
    deployment: randomBytes(4).toString("hex"),
  });
  const open = async (port: number, username: string, given: string): Promise<Redis> => {
    const client = new Redis({
      port,
      host: "127.0.0.1",
      username,
      password: given,
      lazyConnect: true,
      enableReadyCheck: false,
      disableClientInfo: true,
      retryStrategy: () => null,
      maxRetriesPerRequest: 0,
    });
    let reason: unknown;
    client.on("error", (error: unknown) => (reason ??= error));
    await client.connect().catch((error: unknown) => {
      // It would wait 2 s for what is closed.
      if (client.status !== "end") client.disconnect();
      throw reason ?? error;
    });
    return client;
  };
  const root = async (server: number, ...[name, ...rest]: [string, ...string[]]): Promise<unknown> => {
    const client = await open(servers[server]?.port ?? 0, "root", rootPassword);
    try {
      return await client.call(name, ...rest);
    } finally {
      client.disconnect();
    }
  };
  const login: RedisTarget["login"] = async ({ username, password: given }, server = 0) => {
    if (!(given instanceof Secret)) throw new Error("the password must be a Secret");
    return open(servers[server]?.port ?? 0, String(username), given.reveal()).catch((error: unknown) => {
      if (error instanceof Error && error.message.startsWith("WRONGPASS")) return undefined;
      throw error;
    });
  };
  const sha256 = createHash("sha256").update(password).digest("hex");
  for (const index of servers.keys()) {
    const [name = "", ...rest] = adminSetup(config.user, sha256).split(" ");
    await root(index, name, ...rest);
    await root(index, "ACL", "SAVE");
  }
  return {
    config,
    servers,
    root,
    login,
    async works(secret) {
      const uses = servers.map(async (_, index) => {
        const client = await login(secret, index);
        if (client === undefined) return false;
        try {
          await client.set("notes:1", "hello");
          const denied = await client.get("other").then(
            () => false,
            (error: Error) => error.message.startsWith("NOPERM"),
          );
          return denied && (await client.get("notes:1")) === "hello";
        } finally {
          client.disconnect();
        }
      });
      const worked = await Promise.all(uses);
      if (new Set(worked).size !== 1) throw new Error("it works on some nodes and not on others");
      return worked[0] === true;
    },
    async users(server) {
      const users = (await root(server, "ACL", "USERS")) as string[];
      return users.filter((user) => user.startsWith(`mfy_${config.deployment}_`));
    },
    request(changes = {}) {
      const credentialId = newId("credential");
      return {
        credentialId,
        ...redis.name(credentialId, config),
        access: [notes],
        expiresAt: new Date(Date.now() + 60_000),
        createWithinMs: 5_000,
        signal: never(),
        keep: async () => undefined,
        ...changes,
      };
    },
    async [Symbol.asyncDispose]() {
      for (const server of servers) await server[Symbol.asyncDispose]();
      await directory[Symbol.asyncDispose]();
    },
  };
}
