import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { deploymentPrefix } from "./deployment.ts";
import { type Bounds, defineIssuer, type Issued, type IssueRequest } from "./issuer.ts";
import { eachOnce, prefixes } from "./several.ts";
import { targetOrigin } from "./target-origin.ts";
import { type TwoLanes, twoLanes } from "./two-lanes.ts";
import { type Child, CLEAN_UP_MS, makeChild } from "./vault-child.ts";
import { openVault, type VaultCall, type VaultLane } from "./vault-client.ts";
import { type Generated, toGenerated } from "./vault-engine.ts";
import { hcl, inspectVault } from "./vault-inspect.ts";
import { probeInVault, revokeInVault } from "./vault-revoke.ts";

const SEGMENT = "[A-Za-z0-9_][A-Za-z0-9_-]{0,63}";
const mount = z.string().regex(new RegExp(`^${SEGMENT}(/${SEGMENT}){0,3}$`), "a mount, without slashes at its ends");
const name = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/);

const config = z
  .strictObject({
    /** Of the server, without a path. */
    url: targetOrigin,
    /** Where the policies, the token role and the engines are. Absent: the root namespace. */
    namespace: mount.optional(),
    /** PEM. Absent: the well-known authorities. */
    ca: z.string().startsWith("-----BEGIN CERTIFICATE-----").max(65_536).optional(),
    /** How the broker itself logs in. `role` is the `role_id` with approle. */
    login: z.strictObject({ method: z.enum(["approle", "kubernetes", "jwt"]), mount, role: name }),
    /** The `secret_id`, or the JWT. Absent (not with approle): the token that the operator has mounted for this host. */
    login_secret: z
      .string()
      .regex(/^[\x21-\x7e]{1,16384}$/)
      .optional(),
    /** The token role that child tokens are made with: it says which policies they may have. */
    token_role: name.default("mayfly"),
    /** The prefix that tells this target's tokens from all others. Random unless given, so parse it once and store it. */
    deployment: deploymentPrefix(),
    /** Whether what the engines make dies with its lease. False for certificates and others that live until their own end. */
    engine_revocable: z.boolean().default(true),
    /** What the engines make at the least, in seconds (900 for sessions of AWS). */
    min_ttl_seconds: z.int().min(1).max(3600).default(1),
  })
  .refine(({ login, login_secret }) => login.method !== "approle" || login_secret !== undefined, {
    path: ["login_secret"],
    message: "approle needs its secret_id",
  });

const parameter = z.union([z.string().max(8192), z.number(), z.boolean()]);

const access = z
  .strictObject({
    /** What is asked of the engine: `<mount>/creds/<role>`, or with `write` also `issue`, `sign` and `sts`. */
    path: z
      .string()
      .regex(new RegExp(`^${SEGMENT}(/${SEGMENT}){0,3}/(creds|issue|sign|sts)/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`))
      .refine((path) => !/^(sys|auth|identity|cubbyhole)\//.test(path), "not an engine's path"),
    method: z.enum(["read", "write"]).default("read"),
    /** What is written, always the same. `ttl` is ours. */
    parameters: z
      .record(z.string().regex(/^(?!ttl$)[a-z][a-z0-9_]{0,63}$/), parameter)
      .refine((given) => Object.keys(given).length <= 32, "at most 32")
      .optional(),
    /** What the child token may do: to reach `path`, and no more. */
    policies: z
      .array(name.refine((policy) => policy !== "root" && policy !== "default", "root and default are never given"))
      .min(1)
      .max(16),
  })
  .refine(({ method, path }) => method === "write" || path.split("/").at(-2) === "creds", {
    path: ["path"],
    message: "only creds can be read",
  })
  .refine(({ method, parameters }) => method === "write" || parameters === undefined, {
    path: ["parameters"],
    message: "nothing is sent with a read",
  });

const handle = z.strictObject({
  name: z.string().regex(/^mayfly-[a-z0-9]{1,8}-[0-9a-f]{32}$/),
  accessor: z
    .string()
    .regex(/^[A-Za-z0-9._-]{1,256}$/)
    .optional(),
  leases: z
    .array(z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_./-]{0,1023}$/))
    .max(64)
    .optional(),
});

export type VaultConfig = z.output<typeof config>;
export type VaultAccess = z.output<typeof access>;
export type VaultHandle = z.output<typeof handle>;

interface Target extends TwoLanes<VaultLane> {
  readonly config: VaultConfig;
}

/** The end of the child token, and on top of it what Vault's own queue takes to end the leases of a token that ran out. */
const BACKSTOP_SECONDS = 15;

/**
 * What a dynamic secrets engine of HashiCorp Vault or OpenBao makes, read with a child token that is the credential's own:
 * its end takes every lease along.
 */
export const vault = defineIssuer({
  kind: "vault",
  config,
  access,
  handle,
  secretConfig: ["login_secret"],
  identityConfig: ["url", "namespace", "deployment", "engine_revocable", "min_ttl_seconds"],
  bounds: ({ engine_revocable, min_ttl_seconds }: VaultConfig): Bounds => ({
    ttlSeconds: { min: min_ttl_seconds, max: 86_400 },
    revocability: engine_revocable ? "immediate" : "expiry",
    backstopSeconds: BACKSTOP_SECONDS,
    effectiveBoundSeconds: 0,
  }),

  connect: (target: VaultConfig): Promise<Target> =>
    Promise.resolve({ ...twoLanes(() => openVault(target)), config: target }),

  name(credentialId, { deployment }) {
    const called = `mayfly-${deployment}-${credentialId.slice(credentialId.indexOf("_") + 1)}`;
    return { downstreamName: called, handle: { name: called } };
  },

  issue,

  revoke: async (target: Target, made: VaultHandle, signal) => {
    await revokeInVault(target.revoke, made, signal);
    return {};
  },

  probe: (target: Target, made: VaultHandle, signal) => probeInVault(target.revoke, made, signal),

  inspect: (target: Target, wanted, signal) => inspectVault(target.revoke, target.config, wanted, signal),
});

async function issue(target: Target, request: IssueRequest<VaultAccess, VaultHandle>): Promise<Issued> {
  const signal = AbortSignal.any([request.signal, AbortSignal.timeout(Math.max(0, request.createWithinMs))]);
  const started = performance.now();
  // A timer may be late: the clock decides. What is asked for after this would come too late.
  const inTime = (): void => {
    if (performance.now() - started >= request.createWithinMs)
      throw new MayflyError("target_unavailable", "there was no time left to create it");
  };
  inTime();
  const child = await makeChild(target, request, signal);
  let made: VaultHandle = { ...request.handle, accessor: child.accessor };
  const wanted = eachOnce(request.access, ({ method, path, parameters = null }) => [method, path, parameters]);
  const generated: Generated[] = [];
  try {
    // Before any engine is read: whatever they make hangs on this token (Vault ends the leases of a token with it).
    await request.keep(made);
    for (const one of wanted) {
      inTime();
      const read = await readEngine(target, child, one, request, signal);
      generated.push(read);
      if (read.lease === undefined) continue;
      made = withLease(made, read.lease);
      await request.keep(made);
    }
    const ends = [child.endsAtMs, ...generated.flatMap(({ endsAtMs }) => endsAtMs ?? [])];
    const endsAtMs = Math.min(...ends);
    const early = endsAtMs < request.expiresAt.getTime();
    // Of one engine, the members as they came; of several, each under its path: `database/creds/reporting.password`.
    const before = prefixes(wanted.map(({ path }) => path));
    const members = generated.flatMap(({ secret }, index) =>
      Object.entries(secret).map(([member, value]) => [`${before[index]}${member}`, value] as const),
    );
    return { secret: Object.fromEntries(members), ...(early ? { expiresAt: new Date(endsAtMs) } : {}) };
  } catch (error) {
    // As far as it goes. What stays is taken back by the handle, and the token has its own end.
    await revokeInVault(target.mint, made, AbortSignal.timeout(CLEAN_UP_MS)).catch(() => undefined);
    throw error;
  }
}

function withLease(made: VaultHandle, lease: string): VaultHandle {
  const parsed = handle.safeParse({ ...made, leases: [...(made.leases ?? []), lease] });
  if (!parsed.success)
    throw new MayflyError("target_rejected", "Vault names a lease as no Vault does, or made too many");
  return parsed.data;
}

async function readEngine(
  { mint, config: { engine_revocable } }: Target,
  child: Child,
  wanted: VaultAccess,
  { expiresAt }: IssueRequest<VaultAccess, VaultHandle>,
  signal: AbortSignal,
): Promise<Generated> {
  const startedAtMs = Date.now();
  const { path, method } = wanted;
  if (!engine_revocable && method === "read")
    throw new MayflyError("target_rejected", `${path} must be written: what nothing can take back is told its end`);
  const ttl = `${Math.max(1, Math.ceil((expiresAt.getTime() - startedAtMs) / 1000))}s`;
  const call: VaultCall = { method, path, ...(method === "read" ? {} : { data: { ...wanted.parameters, ttl } }) };
  const answer = await mint.callAs(child.token, call, signal);
  if (!answer.ok)
    throw answer.refusal(
      answer.status === 403
        ? `${wanted.policies.join(", ")} must grant: ${hcl(path, method === "read" ? "read" : "update")}`
        : `${method} of ${path}`,
    );
  const made = toGenerated(answer.body, startedAtMs);
  if (engine_revocable && made.lease === undefined)
    throw new MayflyError("target_rejected", `${path} keeps no lease, so nothing could take it back: engine_revocable`);
  const latest = expiresAt.getTime() + BACKSTOP_SECONDS * 1000;
  if (!engine_revocable && !((made.endsAtMs ?? Number.POSITIVE_INFINITY) <= latest))
    throw new MayflyError("target_rejected", `${path} made what lives longer than asked, or does not say how long`);
  return made;
}
