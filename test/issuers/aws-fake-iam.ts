import { type PolicyDocument, readDocument } from "./aws-fake-rules.ts";

/** A role of the fake. Inline policies bite only after as many uses of the role's sessions as `lag` says. */
export interface Role {
  readonly account: string;
  readonly name: string;
  readonly id: string;
  maxSession: number;
  trust: PolicyDocument;
  permissions: PolicyDocument;
  boundary?: string;
  inline: Map<string, string>;
  changes: { turns: number; readonly inline: ReadonlyMap<string, string> }[];
  effective: ReadonlyMap<string, string>;
}

export interface User {
  readonly account: string;
  readonly name: string;
  readonly secret: string;
  policy: PolicyDocument;
}

/** A session of a role, by the id of its key. */
export interface Session {
  readonly role: Role;
  readonly name: string;
  readonly secret: string;
  readonly token: string;
  readonly ends: number;
  readonly sourceIdentity: string | undefined;
  /** What narrows it: its own document and the managed ones. Undefined: nothing does. */
  readonly policies: readonly PolicyDocument[] | undefined;
}

/** Who signed a request. */
export type Caller =
  | { readonly user: User; readonly session?: undefined }
  | { readonly user?: undefined; readonly session: Session };

/** What an action needs of the fake. */
interface World {
  readonly roles: readonly Role[];
  readonly lag: number;
  may(caller: Caller, action: string, resource: string, context?: Record<string, string | undefined>): boolean;
  arnOf(caller: Caller): string;
}

export type Actions = Readonly<
  Record<string, (caller: Caller, parameters: Record<string, string>, world: World) => string>
>;

/** An error as AWS names it. */
export class Refusal extends Error {
  readonly status: number;
  readonly code: string;
  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const MAX_INLINE = 10_240;

/** Reads a policy, or refuses it. */
export function malformed(text: string): PolicyDocument {
  try {
    return readDocument(text);
  } catch {
    throw new Refusal(400, "MalformedPolicyDocument", "Syntax errors in policy.");
  }
}

/** IAM knows the roles of the caller's own account alone, by name. */
function ownRole(
  caller: Caller,
  action: string,
  { RoleName: name = "" }: Record<string, string>,
  { roles, may, arnOf }: World,
): Role {
  const account = caller.user?.account ?? "";
  const role = roles.find((one) => one.account === account && one.name === name);
  const resource = `arn:aws:iam::${account}:role/${name}`;
  if (!may(caller, `iam:${action}`, resource, { "iam:PermissionsBoundary": role?.boundary }))
    throw new Refusal(
      403,
      "AccessDenied",
      `User: ${arnOf(caller)} is not authorized to perform: iam:${action} on resource: role ${name}`,
    );
  if (role === undefined) throw new Refusal(404, "NoSuchEntity", `The role with name ${name} cannot be found.`);
  return role;
}

function changed(role: Role, { lag }: World): void {
  role.changes.push({ turns: lag, inline: new Map(role.inline) });
}

/** The four that Mayfly uses. */
export const iamActions: Actions = {
  GetRolePolicy(caller, given, world) {
    const role = ownRole(caller, "GetRolePolicy", given, world);
    const { PolicyName: name = "" } = given;
    const document = role.inline.get(name);
    if (document === undefined)
      throw new Refusal(404, "NoSuchEntity", `The role policy with name ${name} cannot be found.`);
    const encoded = encodeURIComponent(document).replaceAll("*", "%2A");
    return `<GetRolePolicyResult><PolicyName>${name}</PolicyName><RoleName>${role.name}</RoleName><PolicyDocument>${encoded}</PolicyDocument></GetRolePolicyResult>`;
  },
  ListRolePolicies(caller, given, world) {
    const names = [...ownRole(caller, "ListRolePolicies", given, world).inline.keys()].sort();
    const shown = names.slice(0, Number(given.MaxItems ?? 100)).map((name) => `<member>${name}</member>`);
    return `<ListRolePoliciesResult><PolicyNames>${shown.join("")}</PolicyNames><IsTruncated>${shown.length < names.length}</IsTruncated></ListRolePoliciesResult>`;
  },
  PutRolePolicy(caller, given, world) {
    const role = ownRole(caller, "PutRolePolicy", given, world);
    const { PolicyName: name = "", PolicyDocument: document = "" } = given;
    if (!/^[\w+=,.@-]{1,128}$/.test(name)) throw new Refusal(400, "ValidationError", "policyName");
    malformed(document);
    const others = [...role.inline].filter(([one]) => one !== name).map(([, text]) => text);
    if ([...others, document].join("").replaceAll(/\s/g, "").length > MAX_INLINE)
      throw new Refusal(
        409,
        "LimitExceeded",
        `Maximum policy size of ${MAX_INLINE} bytes exceeded for role ${role.name}`,
      );
    role.inline.set(name, document);
    changed(role, world);
    return "";
  },
  DeleteRolePolicy(caller, given, world) {
    const role = ownRole(caller, "DeleteRolePolicy", given, world);
    const { PolicyName: name = "" } = given;
    if (!role.inline.delete(name))
      throw new Refusal(404, "NoSuchEntity", `The role policy with name ${name} cannot be found.`);
    changed(role, world);
    return "";
  },
};
