import { createPrivateKey } from "node:crypto";
import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { Secret } from "../lib/secret.ts";
import {
  GITHUB,
  type GithubAnswer,
  type GithubLane,
  githubRefusal,
  isBadCredentials,
  openLane,
} from "./github-app-client.ts";
import { inspectGithub, isApp } from "./github-app-inspect.ts";
import { type GithubAccess, githubAccess, isWithin, scopeOf } from "./github-app-scope.ts";
import { defineIssuer, type Issued, type IssueRequest, type ProbeResult } from "./issuer.ts";
import { targetUrl } from "./target-url.ts";
import { type TwoLanes, twoLanes } from "./two-lanes.ts";
import { untilAlive } from "./until-alive.ts";

const config = z.strictObject({
  /** `https://api.github.com`, or `https://<host>/api/v3` of GitHub Enterprise Server. The agents get it, too. */
  api_url: targetUrl(),
  /** The app's client id, or its app id. */
  client_id: z.string().regex(/^[A-Za-z0-9._-]{1,64}$/),
  installation_id: z.int().min(1),
  /** PEM, as GitHub makes it (PKCS#1) or as PKCS#8. */
  private_key: z
    .string()
    .max(16_384)
    .refine(isRsaKey, "an RSA private key of 2048 bits or more, in PEM, without a passphrase"),
  /** PEM. Absent: the well-known authorities. */
  ca: z.string().startsWith("-----BEGIN CERTIFICATE-----").max(65_536).optional(),
});

/** GitHub tells the token and nothing else of it, and only who presents it can take it back (invariant 11's one exception). */
const handle = z.strictObject({
  /** Absent: none was kept, so none was handed out. */
  token: z
    .string()
    .regex(/^[\x21-\x7e]{1,4096}$/)
    .optional(),
});

export type GithubConfig = z.output<typeof config>;
export type GithubHandle = z.output<typeof handle>;

interface Target extends TwoLanes<GithubLane> {
  readonly config: GithubConfig;
}

/** Of every installation access token; nobody can ask for less or more. */
const LIFE_SECONDS = 3600;
/** What a token's end may be late by our clock before it is taken for another kind of token. */
const CLOCKS_MAY_DIFFER_MS = 60_000;
const TAKE_BACK_MS = 5_000;
const BOUNDS = {
  ttlSeconds: { min: 1, max: LIFE_SECONDS },
  revocability: "immediate",
  backstopSeconds: LIFE_SECONDS,
  // GitHub promises no time; tokens are made known everywhere within seconds.
  effectiveBoundSeconds: 5,
} as const;

/**
 * An installation access token of a GitHub App, for some repositories and some permissions. GitHub lets it live an hour; it is
 * taken back when the credential ends.
 */
export const githubApp = defineIssuer({
  kind: "github-app",
  config,
  access: githubAccess,
  handle,
  secretConfig: ["private_key"],
  identityConfig: ["api_url", "client_id", "installation_id"],
  bounds: () => BOUNDS,

  connect: (target: GithubConfig): Promise<Target> =>
    Promise.resolve({ ...twoLanes(() => openLane(target)), config: target }),

  // GitHub gives tokens no name, so the name is ours alone.
  name: (credentialId) => ({
    downstreamName: `mfy_${credentialId.slice(credentialId.indexOf("_") + 1)}`,
    handle: {} as GithubHandle,
  }),

  issue,
  revoke,

  probe: async (target: Target, { token }, signal) =>
    token === undefined ? probeNothing(target, signal) : probe(target.revoke, token, signal),

  inspect: (target: Target, access, signal) => inspectGithub(target.revoke, target.config, access, signal),
});

async function issue(target: Target, request: IssueRequest<GithubAccess, GithubHandle>): Promise<Issued> {
  const scope = scopeOf(request.access, "target_rejected");
  const withinMs = Math.floor(request.createWithinMs);
  const signal = AbortSignal.any([request.signal, AbortSignal.timeout(Math.max(withinMs, 0))]);
  if (withinMs <= 0) throw new MayflyError("target_unavailable", `there was no time left to ask ${GITHUB}`);
  const { repositories, repository_ids, permissions } = scope;
  const answer = await target.mint.asApp(
    {
      method: "POST",
      path: `/app/installations/${target.config.installation_id}/access_tokens`,
      body: { ...(repositories.length > 0 ? { repositories } : { repository_ids }), permissions },
      signal,
    },
    Date.now() + withinMs,
  );
  if (answer.response.status !== 201) throw githubRefusal(answer, WHY_NOT[answer.response.status]);
  const { data } = handle.required().safeParse({ token: answer.body.token });
  if (data === undefined) throw new MayflyError("target_rejected", `${GITHUB} answered without a token`);
  const { token } = data;
  try {
    await request.keep({ token });
    const endsAt = endOf(answer, request.expiresAt);
    if (!isWithin(answer.body, scope))
      throw new MayflyError(
        "target_rejected",
        `${GITHUB} made a token that may do more than was asked; it is taken back`,
      );
    await untilAlive(GITHUB, () => probe(target.mint, token, signal), signal);
    return {
      secret: { token: new Secret(token), api_url: target.config.api_url },
      ...(endsAt < request.expiresAt ? { expiresAt: endsAt } : {}),
    };
  } catch (error) {
    // Nobody has it. The handle may have been kept or not, so this is the last that is sure to know it.
    await revoke(target, { token }, AbortSignal.timeout(TAKE_BACK_MS)).catch(() => undefined);
    throw error;
  }
}

/** What the admin should look at. Texts are ours: GitHub's may quote what was sent. */
const WHY_NOT: Readonly<Record<number, string>> = {
  401: "it does not accept the app's key, or this machine's clock",
  403: "the installation may be suspended",
  404: "the app has no such installation",
  422: "the installation reaches not all of these repositories, or has not all of these permissions",
};

/** Throws when the answer names no end, one that is past, or one that the bounds do not know. */
function endOf({ body }: GithubAnswer, expiresAt: Date): Date {
  const ends = new Date(String(body.expires_at));
  const latest = expiresAt.getTime() + LIFE_SECONDS * 1000 + CLOCKS_MAY_DIFFER_MS;
  if (!(ends.getTime() > Date.now() && ends.getTime() <= latest))
    throw new MayflyError(
      "target_rejected",
      `${GITHUB} made a token that does not end within the hour; it is taken back`,
    );
  return ends;
}

async function revoke(target: Target, { token }: GithubHandle, signal: AbortSignal): Promise<Record<string, never>> {
  if (token === undefined) {
    await askForApp(target, signal);
    return {};
  }
  const answer = await target.revoke.asToken({ method: "DELETE", path: "/installation/token", signal }, token);
  if (answer.response.status === 204 || isBadCredentials(answer)) return {};
  throw githubRefusal(answer, answer.response.status === 403 ? WHY_NOT[403] : undefined);
}

/** There is nothing to present. That it is our app is all that can be known, and a target that is not says nothing. */
async function askForApp(target: Target, signal: AbortSignal): Promise<void> {
  const answer = await target.revoke.asApp({ method: "GET", path: "/app", signal });
  if (!isApp(answer, target.config.client_id)) throw githubRefusal(answer, WHY_NOT[401]);
}

/** By effect: it is used. */
async function probe(lane: GithubLane, token: string, signal: AbortSignal): Promise<ProbeResult> {
  const by = "use_of_token";
  try {
    const answer = await lane.asToken({ method: "GET", path: "/installation/repositories?per_page=1", signal }, token);
    const { status } = answer.response;
    if (isBadCredentials(answer)) return { outcome: "dead", by, detail: `${GITHUB} does not know the token` };
    const alive = status === 200 && typeof answer.body.total_count === "number";
    return { outcome: alive ? "alive" : "unknown", by, detail: `${GITHUB} answered ${status}` };
  } catch (error) {
    return { outcome: "unknown", by, detail: described(error) };
  }
}

/**
 * A credential without a token was never active: `issue` keeps the token before it hands it out. If GitHub made one whose
 * answer was lost, it ends within the hour and nobody has it.
 */
async function probeNothing(target: Target, signal: AbortSignal): Promise<ProbeResult> {
  const by = "never_kept";
  try {
    await askForApp(target, signal);
    return {
      outcome: "dead",
      by,
      detail: "no token was kept, so none was handed out; one that was lost ends in an hour",
    };
  } catch (error) {
    return { outcome: "unknown", by, detail: described(error) };
  }
}

function described(error: unknown): string {
  return error instanceof MayflyError ? error.detail : `${GITHUB} did not say`;
}

function isRsaKey(pem: string): boolean {
  try {
    const { asymmetricKeyType, asymmetricKeyDetails } = createPrivateKey(pem);
    return asymmetricKeyType === "rsa" && (asymmetricKeyDetails?.modulusLength ?? 0) >= 2048;
  } catch {
    return false;
  }
}
