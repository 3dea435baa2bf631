import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { resultOf } from "./aws-query.ts";
import { type DenyEntry, denySession, probeSession } from "./aws-sts-deny.ts";
import { inspectAwsSts } from "./aws-sts-inspect.ts";
import { type AwsStsAccess, access } from "./aws-sts-policy.ts";
import {
  type AwsStsConfig,
  type AwsStsTarget,
  assumeParameters,
  config,
  openAwsSts,
  readSession,
} from "./aws-sts-session.ts";
import { type Bounds, defineIssuer, type Issued, type IssueRequest } from "./issuer.ts";

const handle = z.strictObject({
  session: z.string().regex(/^mfy_[a-z0-9]{1,8}_[0-9a-f]{32}$/),
  /** When AWS said that it ends. Absent: nobody was told of an answer. */
  ends: z.iso.datetime().optional(),
});

export type AwsStsHandle = z.output<typeof handle>;

const MIN_SECONDS = 900;
/** A session of the least duration that is asked for at the end of a mint outlives its credential by what the mint took. */
const BACKSTOP_SECONDS = 60;
/** AWS gives no bound for a policy to be seen everywhere; seconds are what is seen. */
const EFFECTIVE_SECONDS = 60;
/** How long after its id was made a session may still be made, by a request held up for as long as its signature is good. */
const MADE_WITHIN_MS = 15 * 60_000;

/**
 * A session of an IAM role (`sts:AssumeRole`), narrowed by a session policy to what was granted. With `deny_policy` it is taken
 * back by a policy of the role that denies this one session everything; else it cannot be, and says so.
 */
export const awsSts = defineIssuer({
  kind: "aws-sts",
  config,
  access,
  handle,
  secretConfig: ["secret_access_key"],
  identityConfig: ["role_arn", "revocation", "deployment", "max_session_seconds", "sts_endpoint", "iam_endpoint"],

  // What can be taken back may end sooner than any session does of itself.
  bounds: ({ revocation, max_session_seconds: max }: AwsStsConfig): Bounds =>
    revocation === "none"
      ? {
          ttlSeconds: { min: MIN_SECONDS, max },
          revocability: "expiry",
          backstopSeconds: BACKSTOP_SECONDS,
          effectiveBoundSeconds: 0,
        }
      : {
          ttlSeconds: { min: 1, max },
          revocability: "immediate",
          backstopSeconds: MIN_SECONDS + BACKSTOP_SECONDS,
          effectiveBoundSeconds: EFFECTIVE_SECONDS,
        },

  connect: (given: AwsStsConfig): Promise<AwsStsTarget> => Promise.resolve(openAwsSts(given)),

  name(credentialId, { deployment }): { readonly downstreamName: string; readonly handle: AwsStsHandle } {
    const session = `mfy_${deployment}_${credentialId.slice(credentialId.indexOf("_") + 1)}`;
    return { downstreamName: session, handle: { session } };
  },

  issue,

  async revoke(target: AwsStsTarget, session: AwsStsHandle, signal) {
    if (target.config.revocation === "none") throw cannotBeTakenBack();
    return denySession(target, entryOf(target, session), signal);
  },

  async probe(target: AwsStsTarget, session: AwsStsHandle, signal) {
    if (target.config.revocation === "none")
      return { outcome: "unknown", by: "expiry", detail: cannotBeTakenBack().detail };
    return probeSession(target, entryOf(target, session), signal);
  },

  inspect: inspectAwsSts,
});

async function issue(target: AwsStsTarget, request: IssueRequest<AwsStsAccess, AwsStsHandle>): Promise<Issued> {
  const { config: given } = target;
  // One made too late harms nobody: its secret is in an answer that nobody waits for, and the handle shuts it out.
  const withinMs = Math.floor(request.createWithinMs);
  if (withinMs <= 0) throw new MayflyError("target_unavailable", "there was no time left to ask AWS STS");
  const parameters = assumeParameters(given, {
    credentialId: request.credentialId,
    session: request.handle.session,
    access: request.access,
    seconds: durationUntil(request.expiresAt, given.revocation),
  });
  const signal = AbortSignal.any([request.signal, AbortSignal.timeout(withinMs)]);
  const made = readSession(resultOf(await target.mint.ask("AssumeRole", parameters, signal)), request.credentialId);
  // What was made and is not handed out exists in this process alone, and ends by itself.
  const [, partition] = given.role_arn.split(":");
  if (made.arn !== `arn:${partition}:sts::${target.account}:assumed-role/${target.roleName}/${request.handle.session}`)
    throw new MayflyError("target_rejected", "AWS STS made a session of another name or role than asked");
  const shortest = given.revocation === "none" ? 0 : Date.now() + MIN_SECONDS * 1000;
  if (made.ends.getTime() > Math.max(request.expiresAt.getTime(), shortest) + BACKSTOP_SECONDS * 1000)
    throw new MayflyError(
      "target_rejected",
      "AWS STS made a session that lasts longer than asked, or its clock is ahead",
    );
  if (given.revocation === "deny_policy") await keep(target, request, made.ends);
  return {
    secret: {
      access_key_id: made.accessKeyId,
      secret_access_key: made.secretAccessKey,
      session_token: made.sessionToken,
      region: given.region,
    },
    expiresAt: made.ends < request.expiresAt ? made.ends : request.expiresAt,
  };
}

async function keep(
  target: AwsStsTarget,
  request: IssueRequest<AwsStsAccess, AwsStsHandle>,
  ends: Date,
): Promise<void> {
  const fuller = { ...request.handle, ends: ends.toISOString() };
  try {
    await request.keep(fuller);
  } catch (error) {
    // The runtime revokes by what it has; this is only sooner.
    await denySession(target, entryOf(target, fuller), request.signal).catch(() => undefined);
    throw error;
  }
}

function durationUntil(expiresAt: Date, revocation: AwsStsConfig["revocation"]): number {
  const left = Math.floor((expiresAt.getTime() - Date.now()) / 1000);
  if (revocation === "none" && left < MIN_SECONDS - BACKSTOP_SECONDS)
    throw new MayflyError("target_rejected", `AWS STS makes no session shorter than ${MIN_SECONDS} seconds`);
  return Math.max(MIN_SECONDS, left);
}

/** When a session is over at the latest: as AWS said, or as late as one with this id can have been made. */
function entryOf({ config: given }: AwsStsTarget, { session, ends }: AwsStsHandle): DenyEntry {
  const id = session.slice(-32);
  const madeAtMs = Number.parseInt(id.slice(0, 12), 16);
  const latestMs = madeAtMs + given.max_session_seconds * 1000 + MADE_WITHIN_MS;
  return { credentialId: `crd_${id}`, endsAt: ends === undefined ? new Date(latestMs) : new Date(ends) };
}

function cannotBeTakenBack(): MayflyError {
  return new MayflyError("not_supported", "a session of this target cannot be taken back; it ends by itself");
}
