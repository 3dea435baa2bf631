import { MayflyError } from "../lib/errors.ts";
import { newId } from "../lib/ids.ts";
import type { AwsAnswer } from "./aws-query.ts";
import { tryDenying } from "./aws-sts-deny.ts";
import { type AwsStsAccess, trustPolicy, userPolicy } from "./aws-sts-policy.ts";
import { type AwsStsTarget, assumeParameters, readSession, whoCalls } from "./aws-sts-session.ts";

const ASSUMING = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"];

/**
 * Whether this key can make sessions of the role, as long and as narrow as will be asked for, and shut them out again. Throws
 * `target_refused` with the policy that is missing. The session that it makes is dropped at once: nobody ever has its secret.
 */
export async function inspectAwsSts(
  target: AwsStsTarget,
  granted: readonly AwsStsAccess[],
  signal: AbortSignal,
): Promise<void> {
  const { config, account, roleName } = target;
  const who = await whoCalls(target.sts, signal);
  if (config.revocation === "deny_policy" && who.account !== account)
    throw refused(
      `revocation deny_policy needs a user of the role's own account ${account}, and this key is of another`,
    );

  const credentialId = newId("credential");
  const session = `mfy_${config.deployment}_${credentialId.slice(-32)}`;
  const asked = { credentialId, session, access: granted, seconds: config.max_session_seconds };
  const answer = await target.sts.ask("AssumeRole", parametersOf(target, asked), signal);
  if (answer.refused) throw explain(answer, target, who.arn);
  readSession(answer.result, credentialId);

  if (config.revocation === "none") return;
  try {
    await tryDenying(target, signal);
  } catch (error) {
    if (!(error instanceof MayflyError) || error.code !== "target_rejected") throw error;
    const policy = userPolicy({ arn: config.role_arn }, "deny_policy");
    throw refused(
      `the key cannot write role ${roleName}'s inline policies (${error.detail}); its user needs ${policy}`,
    );
  }
}

function parametersOf(
  { config }: AwsStsTarget,
  asked: Parameters<typeof assumeParameters>[1],
): ReturnType<typeof assumeParameters> {
  try {
    return assumeParameters(config, asked);
  } catch (error) {
    throw error instanceof MayflyError ? refused(error.detail) : error;
  }
}

function explain(
  { code, message, error }: Extract<AwsAnswer, { refused: true }>,
  { config, roleName }: AwsStsTarget,
  user: string,
): MayflyError {
  const role = { arn: config.role_arn, externalId: config.external_id };
  if (code === "AccessDenied") {
    const action = ASSUMING.find((one) => message.includes(`perform: ${one} `)) ?? ASSUMING.join(", ");
    const trust = trustPolicy(role, user);
    return refused(
      `the key may not ${action}: role ${roleName} needs the trust policy ${trust}, and the user ${userPolicy(role, config.revocation)}`,
    );
  }
  if (code === "ValidationError" && message.includes("MaxSessionDuration"))
    return refused(
      `the role's sessions are shorter than max_session_seconds: aws iam update-role --role-name ${roleName} --max-session-duration ${config.max_session_seconds}`,
    );
  if (code === "PackedPolicyTooLarge" || code === "MalformedPolicyDocument")
    return refused(`AWS does not take the access as a session policy (${code})`);
  return error;
}

function refused(detail: string): MayflyError {
  return new MayflyError("target_refused", detail);
}
