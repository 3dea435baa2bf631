import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { deflateRawSync } from "node:zlib";
import {
  type Actions,
  type Caller,
  iamActions,
  malformed,
  Refusal,
  type Role,
  type Session,
  type User,
} from "./aws-fake-iam.ts";
import { type Claim, claimOf, type PolicyDocument, readDocument, signatureHolds, verdict } from "./aws-fake-rules.ts";

/** What AWS does of which Mayfly makes use, written from its public API documentation. */
export interface AwsFake extends AsyncDisposable {
  readonly url: string;
  readonly users: Map<string, User>;
  readonly sessions: Map<string, Session>;
  /** Managed policies, by ARN. */
  readonly managed: Map<string, PolicyDocument>;
  readonly calls: { readonly action: string; readonly parameters: Readonly<Record<string, string>> }[];
  role(account: string, name: string): Role;
  /** Moves its clock. */
  pass(seconds: number): void;
  now(): number;
  /** How many uses of a session it takes until a change of its role's policies is seen. */
  lag: number;
  /** The next so many calls are throttled. */
  throttle: number;
  /** Changes an answer on its way. */
  rewrite: ((answer: { status: number; body: string }) => { status: number; body: string }) | undefined;
  /** Changes what AssumeRole is about to answer. */
  alter: ((answer: Record<string, string>) => Record<string, string>) | undefined;
}

/** AWS does not say how it packs, only that there is an end to it. */
const MAX_PACKED = 1_400;

export async function awsFake(): Promise<AwsFake> {
  const roles: Role[] = [];
  let offset = 0;
  const fake: Omit<AwsFake, "url" | typeof Symbol.asyncDispose> = {
    users: new Map(),
    sessions: new Map(),
    managed: new Map(),
    calls: [],
    lag: 2,
    throttle: 0,
    rewrite: undefined,
    alter: undefined,
    role(account, name) {
      const found = roles.find((one) => one.account === account && one.name === name);
      if (found !== undefined) return found;
      const nothing: PolicyDocument = { Statement: [] };
      const id = `AROA${keyId()}`;
      const policies = { inline: new Map(), changes: [], effective: new Map() };
      const made = { account, name, id, maxSession: 3600, trust: nothing, permissions: nothing, ...policies };
      roles.push(made);
      return made;
    },
    pass: (seconds) => void (offset += seconds * 1000),
    now: () => Date.now() + offset,
  };
  const server = createServer((request, response) => {
    void answer(request).then(({ type, ...plain }) => {
      const { status, body } = fake.rewrite?.(plain) ?? plain;
      response.writeHead(status, { "content-type": type, date: new Date(fake.now()).toUTCString() }).end(body);
    });
  });
  await once(server.listen(0, "127.0.0.1"), "listening");

  async function answer(request: IncomingMessage): Promise<{ status: number; type: string; body: string }> {
    let body = "";
    for await (const chunk of request) body += String(chunk);
    const type = "text/xml";
    const seen = { method: request.method ?? "", url: request.url ?? "", headers: request.headers, body };
    try {
      const claim = claimOf(request.headers);
      if (claim === undefined) throw new Refusal(403, "MissingAuthenticationToken", "Missing Authentication Token");
      const caller = authenticate(claim, seen);
      if (claim.service === "s3") return { status: 200, type, body: use(caller, seen) };
      if (fake.throttle > 0) {
        fake.throttle -= 1;
        throw new Refusal(400, "Throttling", "Rate exceeded");
      }
      return { status: 200, type, body: query(caller, claim, Object.fromEntries(new URLSearchParams(body))) };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const inner = `<Error><Type>Sender</Type><Code>${error.code}</Code><Message>${escape(error.message)}</Message></Error>`;
      const whole = `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">\n  ${inner}\n  <RequestId>${requestId()}</RequestId>\n</ErrorResponse>\n`;
      return { status: error.status, type, body: whole };
    }
  }

  function authenticate(claim: Claim, seen: Parameters<typeof signatureHolds>[1]): Caller {
    const user = fake.users.get(claim.keyId);
    const session = fake.sessions.get(claim.keyId);
    const secret = user?.secret ?? session?.secret;
    if (secret === undefined || (session !== undefined && seen.headers["x-amz-security-token"] !== session.token))
      throw new Refusal(403, "InvalidClientTokenId", "The security token included in the request is invalid.");
    const [, ...parts] = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(String(seen.headers["x-amz-date"])) ?? [];
    const [year, month, ...rest] = parts.map(Number);
    const at = Date.UTC(year ?? 0, (month ?? 1) - 1, ...rest);
    if (!signatureHolds(claim, seen, secret) || !(Math.abs(at - fake.now()) <= 300_000))
      throw new Refusal(403, "SignatureDoesNotMatch", "The request signature we calculated does not match.");
    if (session !== undefined && fake.now() >= session.ends)
      throw new Refusal(403, "ExpiredToken", "The security token included in the request is expired");
    return session === undefined ? { user: user as User } : { session };
  }

  function arnOf({ user, session }: Caller): string {
    return user === undefined
      ? `arn:aws:sts::${session.role.account}:assumed-role/${session.role.name}/${session.name}`
      : `arn:aws:iam::${user.account}:user/${user.name}`;
  }

  /** Whether the caller's own policies let it do something: for a session those of its role, its own, and what denies. */
  function may(
    caller: Caller,
    action: string,
    resource: string,
    more: Record<string, string | undefined> = {},
  ): boolean {
    if (caller.user !== undefined)
      return verdict([caller.user.policy], { action, resource, context: more }) === "Allow";
    const { role, sourceIdentity, name, policies } = caller.session;
    const context = { ...more, "aws:SourceIdentity": sourceIdentity, "aws:userid": `${role.id}:${name}` };
    const inline = [...role.effective.values()].map(readDocument);
    const asked = { action, resource, context };
    return (
      verdict([role.permissions, ...inline], asked) === "Allow" &&
      (policies === undefined || verdict(policies, asked) === "Allow")
    );
  }

  /** An object of a bucket, got or put: what agents do with a session. */
  function use(caller: Caller, { method, url }: { readonly method: string; readonly url: string }): string {
    if (caller.session !== undefined) settle(caller.session.role);
    const action = method === "GET" ? "s3:GetObject" : "s3:PutObject";
    if (!may(caller, action, `arn:aws:s3:::${url.slice(1)}`)) throw new Refusal(403, "AccessDenied", "Access Denied");
    return "hello";
  }

  function settle(role: Role): void {
    for (const change of role.changes) change.turns -= 1;
    role.effective = role.changes.findLast(({ turns }) => turns < 0)?.inline ?? role.effective;
    role.changes = role.changes.filter(({ turns }) => turns >= 0);
  }

  function query(caller: Caller, claim: Claim, parameters: Record<string, string>): string {
    const { Action: action = "", Version: version } = parameters;
    fake.calls.push({ action, parameters });
    const [service, latest] = Object.hasOwn(stsActions, action) ? ["sts", "2011-06-15"] : ["iam", "2010-05-08"];
    if (claim.service !== service || version !== latest)
      throw new Refusal(400, "InvalidAction", "Could not find operation");
    const run = service === "sts" ? stsActions[action] : iamActions[action];
    if (run === undefined) throw new Refusal(400, "InvalidAction", "Could not find operation");
    const result = run(caller, parameters, { roles, lag: fake.lag, may, arnOf });
    return `<${action}Response xmlns="https://${service}.amazonaws.com/doc/${latest}/">\n  ${result}\n  <ResponseMetadata>\n    <RequestId>${requestId()}</RequestId>\n  </ResponseMetadata>\n</${action}Response>\n`;
  }

  const stsActions: Actions = {
    GetCallerIdentity: (caller) => {
      const account = caller.user?.account ?? caller.session?.role.account ?? "";
      return `<GetCallerIdentityResult><Arn>${arnOf(caller)}</Arn><UserId>AIDA</UserId><Account>${account}</Account></GetCallerIdentityResult>`;
    },
    AssumeRole: assumeRole,
  };

  function assumeRole(caller: Caller, given: Record<string, string>): string {
    const { RoleArn: arn = "", RoleSessionName: name = "", Policy: policy } = given;
    // It goes on from session to session.
    const identity = given["SourceIdentity"] ?? caller.session?.sourceIdentity;
    const seconds = Number(given.DurationSeconds ?? 3600);
    const invalid = (text: string): Refusal => new Refusal(400, "ValidationError", text);
    if (!/^[\w+=,.@-]{2,64}$/.test(name)) throw invalid("'roleSessionName' failed to satisfy constraint");
    if (identity !== undefined && !/^[\w+=,.@-]{2,64}$/.test(identity))
      throw invalid("'sourceIdentity' failed to satisfy constraint");
    if (!Number.isInteger(seconds) || seconds < 900 || seconds > 43_200)
      throw invalid("'durationSeconds' failed to satisfy constraint");
    if (policy !== undefined && policy.length > 2048)
      throw invalid("'policy' failed to satisfy constraint: length 2048");
    const [, account = "", roleName = ""] = /^arn:aws:iam::(\d{12}):role\/(?:.*\/)?([^/]+)$/.exec(arn) ?? [];
    const role = roles.find((one) => one.account === account && one.name === roleName);
    const tags = Object.keys(given).filter((key) => key.startsWith("Tags.member."));
    const needed = [
      "sts:AssumeRole",
      ...(tags.length > 0 ? ["sts:TagSession"] : []),
      ...(identity === undefined ? [] : ["sts:SetSourceIdentity"]),
    ];
    for (const action of needed) {
      const context = { "sts:ExternalId": given.ExternalId };
      const trusted =
        role !== undefined &&
        verdict([role.trust], { action, resource: arn, principal: arnOf(caller), context }) === "Allow" &&
        // Stricter than AWS, which within one account asks for one of the two.
        may(caller, action, arn, context);
      const changed = caller.session?.sourceIdentity !== undefined && caller.session.sourceIdentity !== identity;
      if (!trusted || changed)
        throw new Refusal(
          403,
          "AccessDenied",
          `User: ${arnOf(caller)} is not authorized to perform: ${action} on resource: ${arn}`,
        );
    }
    if (role === undefined) throw new Refusal(403, "AccessDenied", "no role");
    if (seconds > role.maxSession)
      throw invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.");
    if (caller.session !== undefined && seconds > 3600)
      throw invalid(
        "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
      );
    const packed = deflateRawSync((policy ?? "") + tags.map((key) => given[key]).join("")).length;
    if (packed > MAX_PACKED)
      throw new Refusal(400, "PackedPolicyTooLarge", `Packed policy consumes ${packed} of ${MAX_PACKED}`);
    const key = `ASIA${keyId()}`;
    const secret = randomBytes(30).toString("base64");
    const token = randomBytes(300).toString("base64");
    const ends = Math.floor(fake.now() / 1000 + seconds) * 1000;
    const managed = Object.keys(given).filter((one) => one.startsWith("PolicyArns.member."));
    const policies = [
      ...(policy === undefined ? [] : [malformed(policy)]),
      ...managed.map((one) => fake.managed.get(given[one] ?? "") ?? malformed("")),
    ];
    fake.sessions.set(key, {
      role,
      name,
      secret,
      token,
      ends,
      sourceIdentity: identity,
      policies: policies.length === 0 ? undefined : policies,
    });
    const plain = {
      AccessKeyId: key,
      SecretAccessKey: secret,
      SessionToken: token,
      Expiration: new Date(ends).toISOString().replace(".000", ""),
      Arn: `arn:aws:sts::${account}:assumed-role/${roleName}/${name}`,
      SourceIdentity: identity ?? "",
    };
    const { Arn, SourceIdentity, ...credentials } = fake.alter?.(plain) ?? plain;
    const inside = Object.entries(credentials).map(([one, value]) => `      <${one}>${escape(value)}</${one}>\n`);
    return `<AssumeRoleResult>\n    <AssumedRoleUser>\n      <AssumedRoleId>${role.id}:${name}</AssumedRoleId>\n      <Arn>${Arn}</Arn>\n    </AssumedRoleUser>\n    <Credentials>\n${inside.join("")}    </Credentials>\n    <PackedPolicySize>${Math.ceil((100 * packed) / MAX_PACKED)}</PackedPolicySize>\n${SourceIdentity === "" ? "" : `    <SourceIdentity>${SourceIdentity}</SourceIdentity>\n`}  </AssumeRoleResult>`;
  }

  return Object.assign(fake, {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
    },
  });
}

function keyId(): string {
  return randomBytes(8).toString("hex").toUpperCase();
}

function requestId(): string {
  return randomBytes(8).toString("hex");
}

function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
