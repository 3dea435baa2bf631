import { z } from "zod";
import { defineIssuer, type Issued, type IssueRequest, type ProbeResult } from "../../src/issuers/issuer.ts";
import { openTargetConnections, refusalOf, type TargetConnections } from "../../src/issuers/target-fetch.ts";
import { type TwoLanes, twoLanes } from "../../src/issuers/two-lanes.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import type { Id } from "../../src/lib/ids.ts";
import { Secret } from "../../src/lib/secret.ts";

/* An issuer to begin from: copy it to `src/issuers/<kind>.ts`, and `template.test.ts` to the tests. */

const config = z.strictObject({
  url: z.url(),
  token: z.string().min(16),
  /** Of all names here, so that two installations leave each other's alone. Random, when the target is registered. */
  deployment: z.string().regex(/^[a-z0-9]{1,8}$/),
});
const access = z.strictObject({ scope: z.enum(["read", "write"]) });
// What is stored is read strictly, too: it becomes part of a path.
const handle = z.strictObject({ name: z.string().regex(/^mfy_[a-z0-9]{1,8}_[0-9a-f]{32}$/) });

export type TemplateConfig = z.output<typeof config>;
type Access = z.output<typeof access>;
type Handle = z.output<typeof handle>;

interface Target extends TwoLanes<TargetConnections> {
  readonly config: TemplateConfig;
}

const CALLED = "the key service";
const made = z.object({ key: z.string().min(16) });
const listing = z.object({ names: z.array(z.string()) });

export const template = defineIssuer({
  kind: "template",
  config,
  access,
  handle,
  secretConfig: ["token"],
  identityConfig: ["url", "deployment"],
  bounds: () => ({
    ttlSeconds: { min: 1, max: 86_400 },
    revocability: "immediate",
    backstopSeconds: 1,
    effectiveBoundSeconds: 0,
  }),

  connect: (target: TemplateConfig): Promise<Target> => {
    const origin = new URL(target.url).origin;
    return Promise.resolve({ ...twoLanes(() => openTargetConnections({ origin, called: CALLED })), config: target });
  },

  name(credentialId, { deployment }) {
    const name = `mfy_${deployment}_${credentialId.slice("crd_".length)}`;
    return { downstreamName: name, handle: { name } };
  },

  async issue(target: Target, request: IssueRequest<Access, Handle>): Promise<Issued> {
    // Read before anything is sent: a request that is held up on its way is refused over there.
    const notAfter = new Date(Date.now() + request.createWithinMs);
    if (request.createWithinMs <= 0) throw new MayflyError("target_unavailable", "there was no time left to make it");
    const scope = request.access.some((one) => one.scope === "write") ? "write" : "read";
    const answer = await ask(target.mint, target.config, "PUT", keyPath(request.handle), request.signal, {
      scope,
      ends_at: request.expiresAt.toISOString(),
      not_after: notAfter.toISOString(),
    });
    if (answer.status === 409) throw new MayflyError("target_rejected", "there is a key of that name already");
    if (answer.status !== 201) throw refusalOf(answer, CALLED, "no key was made");
    const { key } = await bodyOf(made, answer);
    return { secret: { key: new Secret(key) } };
  },

  async revoke(target: Target, kept, signal) {
    const answer = await ask(target.revoke, target.config, "DELETE", keyPath(kept), signal);
    if (answer.status === 204 || (await isMissing(answer, kept))) return {};
    throw refusalOf(answer, CALLED, "the key was not removed");
  },

  // Never throws: what cannot be told is `unknown`, and is asked again.
  async probe(target: Target, kept, signal): Promise<ProbeResult> {
    const by = "key_lookup";
    try {
      const answer = await ask(target.revoke, target.config, "GET", keyPath(kept), signal);
      if (await isMissing(answer, kept)) return { outcome: "dead", by, detail: "no key of that name" };
      if (answer.status === 200) return { outcome: "alive", by, detail: "the key is there" };
      return { outcome: "unknown", by, detail: refusalOf(answer, CALLED).detail };
    } catch (error) {
      return { outcome: "unknown", by, detail: error instanceof MayflyError ? error.detail : `${CALLED} did not say` };
    }
  },

  async list(target: Target, signal) {
    const prefix = `mfy_${target.config.deployment}_`;
    const answer = await ask(target.revoke, target.config, "GET", `/keys?prefix=${prefix}`, signal);
    if (answer.status !== 200) throw refusalOf(answer, CALLED, "the keys were not listed");
    const { names } = await bodyOf(listing, answer);
    return names
      .filter((name) => name.startsWith(prefix) && handle.safeParse({ name }).success)
      .map((name) => ({
        downstreamName: name,
        credentialId: `crd_${name.slice(-32)}` as Id<"credential">,
        handle: { name },
      }));
  },
});

const keyPath = ({ name }: Handle): string => `/keys/${encodeURIComponent(name)}`;

function ask(
  lane: TargetConnections,
  { url, token }: TemplateConfig,
  method: "GET" | "PUT" | "DELETE",
  path: string,
  signal: AbortSignal,
  body?: object,
): Promise<Response> {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const sent = body === undefined ? {} : { body: JSON.stringify(body) };
  return lane.fetch(new URL(path, url), { method, headers, signal, ...sent });
}

/** Its own word, about this very key: the 404 of something in between proves nothing. */
async function isMissing(answer: Response, { name }: Handle): Promise<boolean> {
  if (answer.status !== 404) return false;
  const told = z.object({ missing: z.literal(name) }).safeParse(await answer.json().catch(() => undefined));
  return told.success;
}

async function bodyOf<Value>(schema: z.ZodType<Value>, answer: Response): Promise<Value> {
  const parsed = schema.safeParse(await answer.json().catch(() => undefined));
  if (!parsed.success) throw new MayflyError("target_unavailable", `${CALLED} answered something else`);
  return parsed.data;
}
