import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { Secret } from "../lib/secret.ts";
import { type AwsConnections, openAws, resultOf } from "./aws-query.ts";
import type { DenyTarget } from "./aws-sts-deny.ts";
import { type AwsStsAccess, sessionPolicy } from "./aws-sts-policy.ts";
import { childOf, type Xml } from "./aws-xml.ts";
import { deploymentPrefix } from "./deployment.ts";
import { targetOrigin } from "./target-origin.ts";

export const config = z.strictObject({
  /** The role whose sessions are the credentials. */
  role_arn: z.string().regex(/^arn:aws(-cn|-us-gov)?:iam::[0-9]{12}:role\/([\w+=,.@-]{1,128}\/){0,4}[\w+=,.@-]{1,64}$/),
  /** Whose STS is asked, and what the holder is told to start with. */
  region: z.string().regex(/^[a-z]{2}(-[a-z]{2,12}){1,2}-[0-9]$/),
  /** The broker's own user. A session's key (`ASIA…`) is refused: it ends, and what is made with it ends within the hour. */
  access_key_id: z.string().regex(/^AKIA[A-Z0-9]{12,60}$/, "the key of an IAM user"),
  secret_access_key: z.string().regex(/^[A-Za-z0-9/+=]{16,128}$/),
  external_id: z
    .string()
    .regex(/^[\w+=,.@:/-]{2,1224}$/)
    .optional(),
  /** The longest session, at most the role's own MaxSessionDuration. */
  max_session_seconds: z.int().min(900).max(43_200).default(3600),
  /** `deny_policy` writes to the role. `none`: a session lives until its end, whatever happens. */
  revocation: z.enum(["none", "deny_policy"]),
  /** The prefix that tells this target's sessions and policies from all others. Random unless given, so parse it once and store it. */
  deployment: deploymentPrefix(),
  /** Instead of AWS's public ones, for a private endpoint. */
  sts_endpoint: targetOrigin.optional(),
  iam_endpoint: targetOrigin.optional(),
});

export type AwsStsConfig = z.output<typeof config>;

/** An open target: mints ask STS over connections of their own, so that a burst of them cannot hold up a revoke. */
export interface AwsStsTarget extends DenyTarget, AsyncDisposable {
  readonly config: AwsStsConfig;
  readonly account: string;
  readonly mint: AwsConnections;
  readonly sts: AwsConnections;
}

/** Opens the target without connecting. */
export function openAwsSts(given: AwsStsConfig): AwsStsTarget {
  const { region } = given;
  const [, partition = "", , , account = "", path = ""] = given.role_arn.split(":");
  const suffix = partition === "aws-cn" ? "amazonaws.com.cn" : "amazonaws.com";
  // IAM is one per partition, and its signatures name the region that it is in.
  const home = { "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1" }[partition] ?? "us-east-1";
  const iamHost = { "aws-cn": `iam.cn-north-1.${suffix}`, "aws-us-gov": `iam.us-gov.${suffix}` }[partition];
  const sts = { endpoint: given.sts_endpoint ?? `https://sts.${region}.${suffix}`, service: "sts", region } as const;
  const iam = {
    endpoint: given.iam_endpoint ?? `https://${iamHost ?? `iam.${suffix}`}`,
    service: "iam",
    region: home,
  } as const;
  const [mint, caller, policies] = [sts, sts, iam].map((one) => openAws({ ...one, key: given }));
  if (mint === undefined || caller === undefined || policies === undefined)
    throw new MayflyError("internal", "no connections");
  let own: Promise<void> | undefined;
  return {
    config: given,
    account,
    mint,
    sts: caller,
    iam: policies,
    roleName: path.slice(path.lastIndexOf("/") + 1),
    deployment: given.deployment,
    // A key never changes its account, so it is asked once.
    async inOwnAccount(signal) {
      own ??= whoCalls(caller, signal).then((who) => {
        if (who.account !== account) throw new MayflyError("target_rejected", "the key is not of the role's account");
      });
      const asked = own;
      await asked.catch((error: unknown) => {
        if (own === asked) own = undefined;
        throw error;
      });
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([mint, caller, policies].map((one) => one[Symbol.asyncDispose]()));
    },
  };
}

/** Whose key it is, as AWS says it. Needs no right. */
export async function whoCalls(
  sts: AwsConnections,
  signal: AbortSignal,
): Promise<{ readonly account: string; readonly arn: string }> {
  const result = childOf(resultOf(await sts.ask("GetCallerIdentity", {}, signal)), "GetCallerIdentityResult");
  const account = childOf(result, "Account")?.text ?? "";
  const arn = childOf(result, "Arn")?.text ?? "";
  if (!/^[0-9]{12}$/.test(account) || !/^arn:[a-z-]+:iam::[0-9]{12}:[\w+=,.@/-]+$/.test(arn))
    throw new MayflyError("target_unavailable", "AWS STS did not say whose key this is");
  return { account, arn };
}

/** What a session is asked for by. */
interface Asked {
  readonly credentialId: string;
  readonly session: string;
  readonly access: readonly AwsStsAccess[];
  readonly seconds: number;
}

/** A session as AWS made it. */
interface Session {
  readonly arn: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: Secret;
  readonly sessionToken: Secret;
  readonly ends: Date;
}

/** The parameters of AssumeRole. Throws `target_rejected` when the access is more than a session can be told. */
export function assumeParameters(
  { role_arn, external_id, deployment }: AwsStsConfig,
  { credentialId, session, access, seconds }: Asked,
): Readonly<Record<string, string>> {
  return {
    RoleArn: role_arn,
    RoleSessionName: session,
    DurationSeconds: String(seconds),
    SourceIdentity: credentialId,
    "Tags.member.1.Key": "mayfly:credential",
    "Tags.member.1.Value": credentialId,
    "Tags.member.2.Key": "mayfly:deployment",
    "Tags.member.2.Value": deployment,
    ...(external_id === undefined ? {} : { ExternalId: external_id }),
    ...sessionPolicy(access),
  };
}

/** The session in an answer. Throws unless it is all there and bears the source identity, which a revoke goes by. */
export function readSession(answer: Xml, credentialId: string): Session {
  const result = childOf(answer, "AssumeRoleResult");
  const credentials = childOf(result, "Credentials");
  const text = (name: string): string => childOf(credentials, name)?.text ?? "";
  const [accessKeyId, secret, token] = [text("AccessKeyId"), text("SecretAccessKey"), text("SessionToken")];
  const ends = new Date(text("Expiration"));
  // The token's form is AWS's own and has changed before; that it can be a header is all that is asked of it.
  if (
    !/^ASIA[A-Z0-9]{12,124}$/.test(accessKeyId) ||
    !/^\S{16,256}$/.test(secret) ||
    !/^[\x21-\x7e]{1,16384}$/.test(token)
  )
    throw new MayflyError("target_unavailable", "AWS STS answered without a session");
  if (Number.isNaN(ends.getTime()))
    throw new MayflyError("target_unavailable", "AWS STS did not say when the session ends");
  if (childOf(result, "SourceIdentity")?.text !== credentialId)
    throw new MayflyError("target_rejected", "AWS STS made a session without the source identity that was asked for");
  return {
    arn: childOf(result, "AssumedRoleUser", "Arn")?.text ?? "",
    accessKeyId,
    secretAccessKey: new Secret(secret),
    sessionToken: new Secret(token),
    ends,
  };
}
