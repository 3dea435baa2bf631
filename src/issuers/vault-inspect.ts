import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { notVault, type VaultAnswer, type VaultLane } from "./vault-client.ts";

interface Wanted {
  readonly path: string;
  readonly method: "read" | "write";
  readonly policies: readonly string[];
}

const capabilities = z.object({ data: z.record(z.string(), z.unknown()) });
const tokenRole = z.object({
  data: z.object({
    orphan: z.boolean(),
    allowed_policies: z.array(z.string()).nullish(),
    allowed_policies_glob: z.array(z.string()).nullish(),
    token_type: z.string(),
    token_num_uses: z.number().default(0),
    token_period: z.number().default(0),
  }),
});

/**
 * Whether Mayfly can mint and take back in this Vault, and do no more than that. Throws `target_refused` with the lines of
 * policy, or the command, that put it right.
 */
export async function inspectVault(
  lane: VaultLane,
  { token_role: role, engine_revocable }: { readonly token_role: string; readonly engine_revocable: boolean },
  access: readonly Wanted[],
  signal: AbortSignal,
): Promise<void> {
  const needed: Readonly<Record<string, "read" | "update">> = {
    [`auth/token/create/${role}`]: "update",
    [`auth/token/roles/${role}`]: "read",
    "auth/token/revoke-accessor": "update",
    "auth/token/lookup-accessor": "update",
    "auth/token/lookup-self": "read",
    "sys/leases/lookup": "update",
    "sys/leases/revoke": "update",
  };
  const engines = access.map(({ path }) => path);
  const held = await readCapabilities(lane, [...Object.keys(needed), ...engines], signal);
  const all = [...held.values()].flat();
  if (all.includes("root")) throw refused("the broker must not log in as root: give it a policy of its own");
  const missing = Object.entries(needed).filter(([path, capability]) => !held.get(path)?.includes(capability));
  if (missing.length > 0)
    throw refused(`the broker's policy lacks: ${missing.map(([path, capability]) => hcl(path, capability)).join(" ")}`);
  // A broker that could read the engines would need no child token, and whoever stole its token neither.
  const open = engines.find((path) => held.get(path)?.some((capability) => capability !== "deny") === true);
  if (open !== undefined) throw refused(`the broker's own policy must not reach ${open}: that is for child tokens`);
  await checkRole(lane, role, [...new Set(access.flatMap(({ policies }) => policies))].sort(), signal);
  const read = access.find(({ method }) => method === "read");
  if (!engine_revocable && read !== undefined)
    throw refused(`${read.path} must be written: where nothing can be taken back, the engine is told the end (ttl)`);
}

async function readCapabilities(
  lane: VaultLane,
  paths: readonly string[],
  signal: AbortSignal,
): Promise<Map<string, readonly string[]>> {
  const call = { method: "write", path: "sys/capabilities-self", data: { paths } } as const;
  const answer = await lane.call(call, signal);
  if (answer.status === 403) throw refused(`the broker's policy lacks: ${hcl("sys/capabilities-self", "update")}`);
  const { data } = told(answer, capabilities, "the broker's rights could not be read");
  return new Map(paths.map((path) => [path, z.array(z.string()).catch([]).parse(data[path])]));
}

async function checkRole(
  lane: VaultLane,
  role: string,
  policies: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const remedy = `vault write auth/token/roles/${role} orphan=true token_type=service allowed_policies="${policies.join(",")}"`;
  const answer = await lane.call({ method: "read", path: `auth/token/roles/${role}` }, signal);
  if (answer.status === 404) throw refused(`there is no token role ${role}: ${remedy}`);
  const { data } = told(answer, tokenRole, "the token role could not be read");
  const allowed = data.allowed_policies ?? [];
  const lacking = policies.filter((policy) => !allowed.includes(policy));
  if (lacking.length > 0) throw refused(`token role ${role} does not allow ${lacking.join(", ")}: ${remedy}`);
  if ((data.allowed_policies_glob ?? []).length > 0)
    throw refused(`token role ${role} allows policies by pattern: ${remedy} allowed_policies_glob=""`);
  if (!data.orphan) throw refused(`child tokens of role ${role} would end with the broker's own: ${remedy}`);
  if (!["service", "default-service"].includes(data.token_type))
    throw refused(`token role ${role} makes tokens that cannot be taken back: ${remedy}`);
  if (data.token_num_uses !== 0 || data.token_period !== 0)
    throw refused(`token role ${role} limits or extends its tokens: ${remedy} token_num_uses=0 token_period=0`);
}

function told<Value>(answer: VaultAnswer, schema: z.ZodType<Value>, otherwise: string): Value {
  if (!answer.ok) throw answer.refusal(otherwise);
  const parsed = schema.safeParse(answer.body);
  if (!parsed.success) throw notVault();
  return parsed.data;
}

/** One line of a Vault policy. */
export function hcl(path: string, capability: string): string {
  return `path "${path}" { capabilities = ["${capability}"] }`;
}

function refused(detail: string): MayflyError {
  return new MayflyError("target_refused", detail);
}
