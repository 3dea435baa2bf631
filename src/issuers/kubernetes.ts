import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import type { Secret } from "../lib/secret.ts";
import { deploymentPrefix } from "./deployment.ts";
import { defineIssuer, type Issued, type IssueRequest, type Listed, type ProbeResult } from "./issuer.ts";
import { type KubernetesAnswer, type KubernetesLane, notKubernetes, openKubernetes } from "./kubernetes-client.ts";
import { denied, inspectKubernetes } from "./kubernetes-inspect.ts";
import { LIVES_ON_SECONDS, requestToken } from "./kubernetes-token.ts";
import { eachOnce, prefixes } from "./several.ts";
import { targetOrigin } from "./target-origin.ts";
import { type TwoLanes, twoLanes } from "./two-lanes.ts";

const label = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

const config = z.strictObject({
  /** Of the API server, as the agents reach it, too: it is in the secret that they get. */
  url: targetOrigin,
  /** PEM. Absent: the well-known authorities. */
  ca: z.string().startsWith("-----BEGIN CERTIFICATE-----").max(65_536).optional(),
  /** Where the service accounts are, and the Secrets that their tokens are bound to: the agents' own, holding nothing else. */
  namespace: z.string().regex(label),
  /** The broker's bearer token. Absent: the token that the operator has mounted for this host. */
  token: z
    .string()
    .regex(/^[\x21-\x7e]{1,16384}$/)
    .optional(),
  /** The prefix that tells this target's Secrets from all others. Random unless given, so parse it once and store it. */
  deployment: deploymentPrefix(),
});

const access = z.strictObject({
  /** Whose token it is. What it may do is granted to the account. */
  service_account: z.string().regex(/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/),
  /** Who shall accept it. Absent: the API server. */
  audiences: z
    .array(z.string().regex(/^[\x21-\x7e]{1,256}$/))
    .min(1)
    .max(8)
    .optional(),
});

const handle = z.strictObject({ name: z.string().regex(/^mayfly-[a-z0-9]{1,8}-[0-9a-f]{32}$/) });

export type KubernetesConfig = z.output<typeof config>;
export type KubernetesAccess = z.output<typeof access>;
export type KubernetesHandle = z.output<typeof handle>;

interface Target extends TwoLanes<KubernetesLane> {
  readonly config: KubernetesConfig;
}

/** How long the API server remembers that it accepted a token (TokenSuccessCacheTTL). */
const CACHE_SECONDS = 10;

const BOUNDS = {
  ttlSeconds: { min: 1, max: 86_400 },
  revocability: "immediate",
  backstopSeconds: LIVES_ON_SECONDS + CACHE_SECONDS,
  effectiveBoundSeconds: CACHE_SECONDS,
} as const;

const DEPLOYMENT = "mayfly.dev/deployment";
const CREDENTIAL = "mayfly.dev/credential";
const PAGE = 100;

/**
 * A token of a Kubernetes service account that is bound to a Secret of the credential's own, which holds nothing: when the Secret
 * is deleted, the API server refuses the token.
 */
export const kubernetes = defineIssuer({
  kind: "kubernetes",
  config,
  access,
  handle,
  secretConfig: ["token"],
  identityConfig: ["url", "namespace", "deployment"],
  bounds: () => BOUNDS,

  connect: (target: KubernetesConfig): Promise<Target> =>
    Promise.resolve({ ...twoLanes(() => openKubernetes(target)), config: target }),

  name(credentialId, { deployment }) {
    const name = `mayfly-${deployment}-${credentialId.slice(credentialId.indexOf("_") + 1)}`;
    return { downstreamName: name, handle: { name } };
  },

  issue,

  async revoke({ revoke: lane, config: { namespace, deployment } }: Target, { name }, signal) {
    const found = await look(lane, namespace, name, signal);
    if (found === "gone") return {};
    if (!isOurs(found, name, deployment))
      throw new MayflyError("target_rejected", `Secret ${name} was not made by this target: it is not touched`);
    const answer = await lane.call(
      {
        method: "DELETE",
        path: secrets(namespace, name),
        // The very one that was looked at. Should it have been replaced meanwhile, the next try looks again.
        body: {
          apiVersion: "v1",
          kind: "DeleteOptions",
          preconditions: { uid: found.metadata.uid },
          gracePeriodSeconds: 0,
        },
      },
      signal,
    );
    if (answer.ok || isNotFound(answer, name)) return {};
    if (answer.status === 409) throw new MayflyError("target_unavailable", `Secret ${name} changed meanwhile`);
    throw answer.refusal(`Secret ${name} was not deleted`);
  },

  probe,

  async list({ revoke: lane, config: { namespace, deployment } }: Target, signal) {
    const listed: Listed<KubernetesHandle>[] = [];
    let next: string | undefined;
    do {
      const answer = await lane.call(
        {
          method: "GET",
          path: secrets(namespace),
          query: {
            labelSelector: `${DEPLOYMENT}=${deployment}`,
            limit: `${PAGE}`,
            ...(next === undefined ? {} : { continue: next }),
          },
          metadata: "PartialObjectMetadataList",
        },
        signal,
      );
      // 410: the page's snapshot is too old by now. Half a list is no list.
      if (answer.status === 410) throw new MayflyError("target_unavailable", "the list grew too old while it was read");
      if (!answer.ok) throw answer.refusal("the Secrets were not listed");
      const { items, metadata } = told(page, answer);
      for (const { metadata: one } of items)
        if (isOurs({ metadata: one }, one.name, deployment))
          listed.push({
            downstreamName: one.name,
            credentialId: `crd_${one.name.slice(-32)}` as Id<"credential">,
            handle: { name: one.name },
          });
      next = metadata.continue === "" ? undefined : metadata.continue;
    } while (next !== undefined);
    return listed;
  },

  inspect: (target: Target, wanted, signal) =>
    inspectKubernetes(target.revoke, target.config.namespace, wanted, signal),
});

const object = z.object({
  metadata: z.object({
    name: z.string(),
    uid: z.string().min(1),
    deletionTimestamp: z.string().optional(),
    labels: z.record(z.string(), z.string()).default({}),
    annotations: z.record(z.string(), z.string()).default({}),
  }),
});
const page = z.object({
  metadata: z.object({ continue: z.string().optional() }).default({}),
  items: z.array(object),
});
async function issue(target: Target, request: IssueRequest<KubernetesAccess, KubernetesHandle>): Promise<Issued> {
  const { mint: lane, config: target_config } = target;
  const { namespace, deployment, url, ca } = target_config;
  const { name } = request.handle;
  const signal = AbortSignal.any([request.signal, AbortSignal.timeout(Math.max(0, request.createWithinMs))]);
  const started = performance.now();
  // A timer may be late: the clock decides. A Secret that is made late is bound to nothing, and its name is known.
  const inTime = (): void => {
    if (performance.now() - started >= request.createWithinMs)
      throw new MayflyError("target_unavailable", "there was no time left to create it");
  };
  inTime();
  const made = await lane.call(
    {
      method: "POST",
      path: secrets(namespace),
      body: {
        apiVersion: "v1",
        kind: "Secret",
        metadata: {
          name,
          labels: { "app.kubernetes.io/managed-by": "mayfly", [DEPLOYMENT]: deployment },
          annotations: { [CREDENTIAL]: request.credentialId },
        },
        type: CREDENTIAL,
        immutable: true,
      },
    },
    signal,
  );
  if (made.status === 409) throw new MayflyError("target_rejected", `there is a Secret ${name} already`);
  if (!made.ok) throw made.refusal(denied(made, { verb: "create", resource: "secrets" }));
  const { uid } = told(object, made).metadata;

  const secret: Record<string, Secret | string> = { server: url, namespace, ...(ca === undefined ? {} : { ca }) };
  let endsAtMs = request.expiresAt.getTime();
  const wanted = eachOnce(request.access, (one) => [one.service_account, one.audiences?.toSorted() ?? null]);
  const before = prefixes(wanted.map(({ service_account }) => service_account));
  for (const [index, one] of wanted.entries()) {
    inTime();
    const token = await requestToken(lane, namespace, { name, uid }, one, request.expiresAt, signal);
    endsAtMs = Math.min(endsAtMs, token.endsAtMs);
    secret[`${before[index]}service_account`] = one.service_account;
    secret[`${before[index]}token`] = token.token;
  }
  return { secret, ...(endsAtMs < request.expiresAt.getTime() ? { expiresAt: new Date(endsAtMs) } : {}) };
}

type Found = z.output<typeof object>;

/** The Secret's metadata. `gone` when the API server itself says that there is none, which it reads from its store. */
async function look(
  lane: KubernetesLane,
  namespace: string,
  name: string,
  signal: AbortSignal,
): Promise<Found | "gone"> {
  const answer = await lane.call(
    { method: "GET", path: secrets(namespace, name), metadata: "PartialObjectMetadata" },
    signal,
  );
  if (isNotFound(answer, name)) return "gone";
  if (!answer.ok) throw answer.refusal(`Secret ${name} was not looked up`);
  return told(object, answer);
}

/** Its own word, of this very Secret: a bare 404 of something in between is not it (reliability A9). */
function isNotFound({ status, reason, about }: KubernetesAnswer, name: string): boolean {
  return status === 404 && reason === "NotFound" && about.kind === "secrets" && about.name === name;
}

function isOurs({ metadata }: Pick<Found, "metadata">, name: string, deployment: string): boolean {
  return (
    handle.safeParse({ name }).success &&
    metadata.name === name &&
    name.startsWith(`mayfly-${deployment}-`) &&
    metadata.labels[DEPLOYMENT] === deployment &&
    metadata.annotations[CREDENTIAL] === `crd_${name.slice(-32)}`
  );
}

async function probe(
  { revoke: lane, config: { namespace, deployment } }: Target,
  { name }: KubernetesHandle,
  signal: AbortSignal,
): Promise<ProbeResult> {
  const by = "bound_object";
  try {
    const found = await look(lane, namespace, name, signal);
    if (found === "gone")
      return { outcome: "dead", by, detail: "no Secret of that name: tokens bound to it are refused" };
    if (!isOurs(found, name, deployment))
      return { outcome: "unknown", by, detail: "a Secret of that name was not made by this target" };
    const held = found.metadata.deletionTimestamp === undefined ? "" : ", deleted, but held by a finalizer";
    return { outcome: "alive", by, detail: `the Secret that tokens are bound to is there${held}` };
  } catch (error) {
    return { outcome: "unknown", by, detail: error instanceof MayflyError ? error.detail : "Kubernetes did not say" };
  }
}

function secrets(namespace: string, ...name: readonly string[]): string[] {
  return ["api", "v1", "namespaces", namespace, "secrets", ...name];
}

function told<Value>(schema: z.ZodType<Value>, { body }: KubernetesAnswer): Value {
  const parsed = schema.safeParse(body);
  if (!parsed.success) throw notKubernetes();
  return parsed.data;
}
