import { MayflyError } from "../lib/errors.ts";
import { type AwsConnections, resultOf } from "./aws-query.ts";
import { denyDocument } from "./aws-sts-policy.ts";
import { childOf } from "./aws-xml.ts";
import type { ProbeResult } from "./issuer.ts";

/** What denying a session needs of its target. */
export interface DenyTarget {
  readonly iam: AwsConnections;
  readonly roleName: string;
  readonly deployment: string;
  /** Throws unless the key is of the role's own account: IAM looks for the role's name in the key's account. */
  inOwnAccount(signal: AbortSignal): Promise<void>;
}

/** One session that may have been made, and when it is over at the latest, in AWS's clock. */
export interface DenyEntry {
  readonly credentialId: string;
  readonly endsAt: Date;
}

const MARGIN_SECONDS = 300;
const CLEAN_AT_A_TIME = 8;

/**
 * Shuts a session out of its role: one inline policy of its own, so that no other revoke, in whatever process, writes over it
 * (IAM has no compare-and-swap). It stays until the session would have ended. Nothing is written when that is past.
 */
export async function denySession(
  target: DenyTarget,
  entry: DenyEntry,
  signal: AbortSignal,
): Promise<{ readonly residue?: string }> {
  await target.inOwnAccount(signal);
  const seen = await readEntry(target, entry, signal);
  if (!seen.over && !seen.denies) await put(target, entry, signal);
  // The next revoke cleans what this one could not.
  await clean(target, signal).catch(() => undefined);
  if (seen.over) return {};
  return {
    residue: `the inline policy ${nameOf(target, entry)} of role ${target.roleName}, until a revoke after ${entry.endsAt.toISOString()}`,
  };
}

/** Whether the role's own record shuts the session out, or AWS's clock says that it has ended. */
export async function probeSession(target: DenyTarget, entry: DenyEntry, signal: AbortSignal): Promise<ProbeResult> {
  const by = "iam_policy";
  try {
    await target.inOwnAccount(signal);
    const { denies, over } = await readEntry(target, entry, signal);
    if (denies) return { outcome: "dead", by, detail: `the inline policy ${nameOf(target, entry)} denies everything` };
    if (over) return { outcome: "dead", by: "sts_expiry", detail: "by AWS's clock the session has ended" };
    return { outcome: "alive", by, detail: "no policy denies the session" };
  } catch (error) {
    return { outcome: "unknown", by, detail: error instanceof MayflyError ? error.detail : "AWS did not say" };
  }
}

/** Makes and takes back an entry for a session that never was, to see that this key may. Throws what AWS has against it. */
export async function tryDenying(target: DenyTarget, signal: AbortSignal): Promise<void> {
  const entry: DenyEntry = { credentialId: `crd_${"0".repeat(32)}`, endsAt: new Date(0) };
  resultOf(await target.iam.ask("PutRolePolicy", withDocument(target, entry), signal));
  await readEntry(target, entry, signal);
  resultOf(await target.iam.ask("ListRolePolicies", { RoleName: target.roleName }, signal));
  await remove(target, nameOf(target, entry), signal);
}

async function readEntry(
  target: DenyTarget,
  entry: DenyEntry,
  signal: AbortSignal,
): Promise<{ readonly denies: boolean; readonly over: boolean }> {
  const names = { RoleName: target.roleName, PolicyName: nameOf(target, entry) };
  const answer = await target.iam.ask("GetRolePolicy", names, signal);
  const over = answer.at !== undefined && answer.at >= entry.endsAt.getTime();
  if (answer.refused && answer.code === "NoSuchEntity") return { denies: false, over };
  const found = childOf(resultOf(answer), "GetRolePolicyResult");
  const text = (name: string): string | undefined => childOf(found, name)?.text;
  if (text("RoleName") !== names.RoleName || text("PolicyName") !== names.PolicyName)
    throw new MayflyError("target_unavailable", "AWS IAM answered something else than asked");
  return { denies: decoded(text("PolicyDocument")) === denyDocument(entry.credentialId), over };
}

function decoded(text = ""): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

async function put(target: DenyTarget, entry: DenyEntry, signal: AbortSignal): Promise<void> {
  const parameters = withDocument(target, entry);
  const first = await target.iam.ask("PutRolePolicy", parameters, signal);
  if (!first.refused) return;
  if (first.code !== "LimitExceeded") throw first.error;
  await clean(target, signal);
  const second = await target.iam.ask("PutRolePolicy", parameters, signal);
  if (second.refused && second.code === "LimitExceeded")
    throw new MayflyError(
      "target_unavailable",
      `role ${target.roleName} has no room for another inline policy until one of the sessions that are shut out has ended`,
    );
  resultOf(second);
}

/** Removes entries of this target whose sessions ended a while ago, by AWS's clock. Others' policies are not touched. */
async function clean(target: DenyTarget, signal: AbortSignal): Promise<void> {
  const answer = await target.iam.ask("ListRolePolicies", { RoleName: target.roleName, MaxItems: "1000" }, signal);
  const listed = childOf(resultOf(answer), "ListRolePoliciesResult", "PolicyNames")?.children ?? [];
  const ours = new RegExp(`^mayfly-deny-${target.deployment}-([0-9]{1,12})-[0-9a-f]{32}$`);
  const { at } = answer;
  if (at === undefined) return;
  const past = listed.filter(({ text }) => {
    const ended = ours.exec(text)?.[1];
    return ended !== undefined && (Number(ended) + MARGIN_SECONDS) * 1000 < at;
  });
  for (const { text } of past.slice(0, CLEAN_AT_A_TIME)) await remove(target, text, signal);
}

async function remove(target: DenyTarget, name: string, signal: AbortSignal): Promise<void> {
  const answer = await target.iam.ask("DeleteRolePolicy", { RoleName: target.roleName, PolicyName: name }, signal);
  if (answer.refused && answer.code !== "NoSuchEntity") throw answer.error;
}

function withDocument(target: DenyTarget, entry: DenyEntry): Readonly<Record<string, string>> {
  const PolicyDocument = denyDocument(entry.credentialId);
  return { RoleName: target.roleName, PolicyName: nameOf(target, entry), PolicyDocument };
}

/** It says when it may go, so that nobody has to read them all to clean. */
function nameOf({ deployment }: DenyTarget, { credentialId, endsAt }: DenyEntry): string {
  return `mayfly-deny-${deployment}-${Math.ceil(endsAt.getTime() / 1000)}-${credentialId.slice(-32)}`;
}
