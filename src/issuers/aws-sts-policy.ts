import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";

/** Wildcards inside an action's own part only: never a whole service, never all of them. */
const action = z
  .string()
  .regex(/^[a-z][a-z0-9-]{0,62}:[A-Z][A-Za-z0-9]{0,62}\*?$/, "service:Action, or service:Prefix*")
  .refine((text) => !/^(iam|sts):/.test(text), "iam and sts are what a session could outlive its end with");

const resource = z
  .string()
  .regex(
    /^arn:aws(-[a-z]{2,8}){0,2}:[a-z0-9-]{1,63}:[a-z0-9-]{0,32}:([0-9]{12}|aws)?:[A-Za-z0-9][A-Za-z0-9._/:@+=,*?-]{0,511}$/,
    "an ARN that names more than its service",
  );

export const access = z
  .strictObject({
    /** What the session may do, if the role may. No `iam` and no `sts`: with them it could make what outlives it. */
    actions: z.array(action).min(1).max(40).optional(),
    /** What it may do that to. */
    resources: z.array(resource).min(1).max(40).optional(),
    /** Managed policies of the role's account that it may use instead or besides, if the role may. */
    policy_arns: z
      .array(z.string().regex(/^arn:aws(-[a-z]{2,8}){0,2}:iam::([0-9]{12}|aws):policy\/[\w+=,.@/-]{1,512}$/))
      .min(1)
      .max(10)
      .optional(),
  })
  .refine(
    ({ actions, resources, policy_arns }) =>
      (actions === undefined) === (resources === undefined) && (actions ?? policy_arns) !== undefined,
    "actions with resources, or policy_arns, or all three",
  );

export type AwsStsAccess = z.output<typeof access>;

/** What AWS allows for the text, before it packs it. */
const MAX_POLICY_LENGTH = 2048;

/**
 * What narrows a session to what was granted, as parameters of AssumeRole. Throws `target_rejected` when AWS would not take it
 * for its size.
 */
export function sessionPolicy(granted: readonly AwsStsAccess[]): Readonly<Record<string, string>> {
  const statements = new Set<string>();
  const managed = new Set<string>();
  for (const { actions, resources, policy_arns } of granted) {
    if (actions !== undefined && resources !== undefined)
      statements.add(JSON.stringify({ Effect: "Allow", Action: sorted(actions), Resource: sorted(resources) }));
    for (const arn of policy_arns ?? []) managed.add(arn);
  }
  if (statements.size + managed.size === 0) throw new MayflyError("internal", "a session that is granted nothing");
  // A managed policy may allow anything, and a key or a session made with this one would outlive it.
  const forbidden = JSON.stringify({ Effect: "Deny", Action: ["iam:*", "sts:*"], Resource: "*" });
  const policy = `{"Version":"2012-10-17","Statement":[${[...sorted([...statements]), forbidden].join(",")}]}`;
  if (policy.length > MAX_POLICY_LENGTH)
    throw new MayflyError(
      "target_rejected",
      `the session policy has ${policy.length} characters and AWS takes ${MAX_POLICY_LENGTH}: grant fewer resources at a time`,
    );
  if (managed.size > 10)
    throw new MayflyError("target_rejected", `a session takes 10 managed policies, and these are ${managed.size}`);
  const arns = sorted([...managed]).map((arn, index) => [`PolicyArns.member.${index + 1}.arn`, arn]);
  return { Policy: policy, ...Object.fromEntries(arns) };
}

function sorted(texts: readonly string[]): string[] {
  return [...new Set(texts)].sort();
}

/**
 * What a role's inline policy says that shuts out one session. `aws:SourceIdentity` is in every request of a session and cannot
 * be changed by it. Short, because a role has 10,240 characters for all of them; no version is the old one, which suffices.
 */
export function denyDocument(credentialId: string): string {
  const Condition = { StringEquals: { "aws:SourceIdentity": credentialId } };
  return JSON.stringify({ Statement: { Effect: "Deny", Action: "*", Resource: "*", Condition } });
}

interface Role {
  readonly arn: string;
  readonly externalId?: string | undefined;
}

/** The trust policy that the role needs. The documentation shows this very text. */
export function trustPolicy(role: Role, user: string): string {
  return JSON.stringify({
    Version: "2012-10-17",
    Statement: [
      {
        Effect: "Allow",
        Principal: { AWS: user },
        Action: ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
        ...(role.externalId === undefined
          ? {}
          : { Condition: { StringEquals: { "sts:ExternalId": role.externalId } } }),
      },
    ],
  });
}

/** The policy that the broker's user needs, and no right more. The documentation shows this very text. */
export function userPolicy(role: Role, revocation: "none" | "deny_policy"): string {
  const assume = {
    Effect: "Allow",
    Action: ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
    Resource: role.arn,
  };
  const deny = {
    Effect: "Allow",
    Action: ["iam:GetRolePolicy", "iam:ListRolePolicies", "iam:PutRolePolicy", "iam:DeleteRolePolicy"],
    Resource: role.arn,
  };
  return JSON.stringify({ Version: "2012-10-17", Statement: revocation === "none" ? [assume] : [assume, deny] });
}
