import { createHash, randomBytes } from "node:crypto";
import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { Secret } from "../lib/secret.ts";
import { deploymentPrefix } from "./deployment.ts";
import { defineIssuer, type Issued, type IssueRequest, type ProbeResult } from "./issuer.ts";
import { type RedisAccess, redisAccess, rulesOf } from "./redis-access.ts";
import { type Connection, connectRedis, type RedisClient, type RedisNode } from "./redis-client.ts";
import { inspectRedis } from "./redis-inspect.ts";
import { lookFor, revokeUser } from "./redis-revoke.ts";
import { isLoopback } from "./target-url.ts";

const config = z
  .strictObject({
    /** Every node that has a user list of its own: all of a replica set, all of a cluster. As the agents reach them, too. */
    nodes: z
      .array(
        z.strictObject({
          host: z.string().regex(/^[A-Za-z0-9._:-]{1,253}$/, "a host name or an IP address"),
          port: z.int().min(1).max(65_535).default(6379),
        }),
      )
      .min(1)
      .max(16),
    user: z.string().regex(/^[A-Za-z0-9_.@-]{1,128}$/),
    password: z.string().min(1).max(1024),
    /** `disable` is for loopback alone: Redis is told passwords as they are. */
    tls: z.enum(["disable", "verify-full"]),
    /** PEM. Absent: the well-known authorities. */
    ca: z.string().startsWith("-----BEGIN CERTIFICATE-----").max(65_536).optional(),
    /** The prefix that tells this target's users from all others. Random unless given, so parse it once and store it. */
    deployment: deploymentPrefix(),
  })
  .refine(({ tls, nodes }) => tls === "verify-full" || nodes.every(({ host }) => isLoopback(host)), {
    path: ["tls"],
    message: "verify-full, unless every node is on a loopback address",
  });

const handle = z.strictObject({ user: z.string().regex(/^mfy_[a-z0-9]{1,8}_[0-9a-f]{32}$/) });

export type RedisConfig = z.output<typeof config>;
export type RedisHandle = z.output<typeof handle>;

interface Target extends RedisClient {
  readonly config: RedisConfig;
}

const ANSWER_WITHIN_MS = 8_000;
/** Redis ends nothing by itself, so there is no backstop: while no worker runs, credentials outlive their end. */
const BOUNDS = {
  ttlSeconds: { min: 1, max: 86_400 },
  revocability: "immediate",
  backstopSeconds: undefined,
  effectiveBoundSeconds: 0,
} as const;

/** A user of Redis that lives as long as one credential, on every node, its password known to nobody but the agent. */
export const redis = defineIssuer({
  kind: "redis",
  config,
  access: redisAccess,
  handle,
  secretConfig: ["password"],
  identityConfig: ["nodes", "deployment"],
  bounds: () => BOUNDS,

  connect: (target: RedisConfig): Promise<Target> => Promise.resolve({ ...connectRedis(target), config: target }),

  name(credentialId, { deployment }) {
    const user = `mfy_${deployment}_${credentialId.slice(credentialId.indexOf("_") + 1)}`;
    return { downstreamName: user, handle: { user } };
  },

  issue,

  async revoke(target: Target, { user }, signal) {
    await everywhere(target, (node) =>
      node.revoke.use(signal, ANSWER_WITHIN_MS, (connection) => revokeUser(connection, user, signal)),
    );
    return {};
  },

  probe,

  async list(target: Target, signal) {
    const ours = new RegExp(`^mfy_${target.config.deployment}_[0-9a-f]{32}$`);
    const found = await everywhere(target, (node) =>
      node.revoke.use(signal, ANSWER_WITHIN_MS, async (connection) => {
        const [users] = await connection.ask(["ACL", "USERS"]);
        if (!Array.isArray(users)) throw new MayflyError("target_unavailable", "Redis did not list its users");
        return users.filter((user): user is string => typeof user === "string" && ours.test(user));
      }),
    );
    return [...new Set(found.flat())].sort().map((user) => ({
      downstreamName: user,
      credentialId: `crd_${user.slice(-32)}` as Id<"credential">,
      handle: { user },
    }));
  },

  async inspect(target: Target, wanted, signal) {
    await everywhere(target, (node) =>
      node.revoke.use(signal, ANSWER_WITHIN_MS, (connection) => inspectRedis(connection, target.config.user, wanted)),
    );
  },
});

/**
 * On all nodes at once. Settles when the last one has, so that nothing of it is still under way; then rejects with what will
 * not work before what may work later. Of several nodes, the error says which.
 */
async function everywhere<Result>(
  { nodes }: RedisClient,
  work: (node: RedisNode) => Promise<Result>,
): Promise<Result[]> {
  const ends = await Promise.allSettled(
    nodes.map(async (node) => {
      try {
        return await work(node);
      } catch (error) {
        if (nodes.length === 1 || !(error instanceof MayflyError)) throw error;
        throw new MayflyError(error.code, `${node.at}: ${error.detail}`);
      }
    }),
  );
  const errors = ends.flatMap((end): unknown[] => (end.status === "rejected" ? [end.reason] : []));
  const final = errors.find((error) => error instanceof MayflyError && !error.retryable);
  if (errors.length > 0) throw final ?? errors[0];
  return ends.flatMap((end) => (end.status === "fulfilled" ? [end.value] : []));
}

async function issue(target: Target, request: IssueRequest<RedisAccess, RedisHandle>): Promise<Issued> {
  const started = performance.now();
  const { user } = request.handle;
  const password = new Secret(randomBytes(32).toString("base64url"));
  const rules = rulesOf(request.access, createHash("sha256").update(password.reveal()).digest("hex"));
  const make = async (connection: Connection): Promise<void> => {
    // The name is what a revoke finds this connection by, so the create is sent once the name was answered.
    const [, taken] = await connection.ask(["CLIENT", "SETNAME", user], ["ACL", "GETUSER", user]);
    const late = performance.now() - started >= request.createWithinMs;
    if (taken !== null || late) {
      await connection.ask(["CLIENT", "SETNAME", ""]);
      throw late ? tooLate() : new MayflyError("target_rejected", "Redis has a user of this name already");
    }
    await connection.ask(["ACL", "SETUSER", user, ...rules], ["ACL", "SAVE"], ["CLIENT", "SETNAME", ""]);
  };
  const withinMs = Math.min(ANSWER_WITHIN_MS, request.createWithinMs);
  await everywhere(target, (node) => node.mint.use(request.signal, withinMs, make));

  const { nodes, tls } = target.config;
  const addresses = nodes.map(({ host, port }) => `${host.includes(":") ? `[${host}]` : host}:${port}`);
  const scheme = tls === "disable" ? "redis" : "rediss";
  const url = new Secret(`${scheme}://${user}:${password.reveal()}@${addresses[0]}`);
  const [first = { host: "", port: 0 }] = nodes;
  return { secret: { username: user, password, ...first, nodes: addresses.join(","), url } };
}

function tooLate(): MayflyError {
  return new MayflyError("target_unavailable", "Redis answered after the create-by time; nothing was created");
}

async function probe(target: Target, { user }: RedisHandle, signal: AbortSignal): Promise<ProbeResult> {
  const by = "acl_and_clients";
  try {
    const seen = await everywhere(target, (node) =>
      node.revoke.use(signal, ANSWER_WITHIN_MS, (connection) => lookFor(connection, user)),
    );
    const present = seen.filter((one) => one.present).length;
    const sessions = seen.reduce((sum, one) => sum + one.sessions.length, 0);
    const makers = seen.reduce((sum, one) => sum + one.makers.length, 0);
    const detail = `the user is on ${present} of ${seen.length} nodes, ${sessions} sessions`;
    if (present > 0 || sessions > 0) return { outcome: "alive", by, detail };
    if (makers > 0) return { outcome: "unknown", by, detail: `${detail}, and its create may be on its way` };
    return { outcome: "dead", by, detail };
  } catch (error) {
    return { outcome: "unknown", by, detail: error instanceof MayflyError ? error.detail : "Redis did not say" };
  }
}
