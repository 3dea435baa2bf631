import { AwsV4Signer } from "aws4fetch";
import { type AwsStsHandle, awsSts } from "../../src/issuers/aws-sts.ts";
import { type AwsStsAccess, trustPolicy, userPolicy } from "../../src/issuers/aws-sts-policy.ts";
import type { AwsStsConfig } from "../../src/issuers/aws-sts-session.ts";
import type { Issued, IssueRequest } from "../../src/issuers/issuer.ts";
import { newId } from "../../src/lib/ids.ts";
import { Secret } from "../../src/lib/secret.ts";
import { type AwsFake, awsFake } from "./aws-fake.ts";
import { never } from "./conformance.ts";

type AwsStsRequest = IssueRequest<AwsStsAccess, AwsStsHandle>;

/** A target of one test file's own: an account with a role and a user, set up as the documentation says. */
export interface AwsTarget extends AsyncDisposable {
  readonly aws: AwsFake;
  readonly config: AwsStsConfig;
  readonly role: ReturnType<AwsFake["role"]>;
  readonly user: { policy: unknown };
  /** Uses a session as its holder would: reads (or with PUT writes) an object of a bucket. Throws on surprises. */
  use(secret: Issued["secret"], path?: string, method?: "GET" | "PUT"): Promise<boolean>;
  /** Asks STS or IAM as the holder of a session would: the code of the refusal, or `done`. */
  ask(secret: Issued["secret"], service: "sts" | "iam", parameters: Readonly<Record<string, string>>): Promise<string>;
  /** What `issue` is asked for. `handle` becomes what was kept. */
  request(changes?: Partial<AwsStsRequest>): { -readonly [Name in keyof AwsStsRequest]: AwsStsRequest[Name] };
}

export const ACCOUNT = "123456789012";
export const USER_ARN = `arn:aws:iam::${ACCOUNT}:user/mayfly`;
export const access = [{ actions: ["s3:GetObject"], resources: ["arn:aws:s3:::reports/2026/*"] }];

const KEY = "AKIAIOSFODNN7EXAMPLE";

export async function awsTarget(revocation: AwsStsConfig["revocation"]): Promise<AwsTarget> {
  const aws = await awsFake();
  const role = aws.role(ACCOUNT, "agent-reports");
  const arn = `arn:aws:iam::${ACCOUNT}:role/agent-reports`;
  const config = {
    role_arn: arn,
    region: "eu-west-1",
    access_key_id: KEY,
    secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    external_id: "mayfly-1",
    max_session_seconds: 3600,
    revocation,
    deployment: "dep1",
    sts_endpoint: aws.url,
    iam_endpoint: aws.url,
  };
  role.trust = JSON.parse(trustPolicy({ arn, externalId: config.external_id }, USER_ARN));
  role.permissions = {
    Statement: [
      { Effect: "Allow", Action: "s3:*", Resource: "arn:aws:s3:::reports/*" },
      { Effect: "Allow", Action: ["sts:*", "iam:*"], Resource: "*" },
    ],
  };
  const policy = JSON.parse(userPolicy({ arn }, revocation));
  aws.users.set(KEY, { account: ACCOUNT, name: "mayfly", secret: config.secret_access_key, policy });
  const reveal = (value: unknown): string => (value instanceof Secret ? value.reveal() : String(value));

  const signed = async (
    secret: Issued["secret"],
    service: string,
    region: string,
    init: { readonly method: string; readonly path: string; readonly body?: string },
  ): Promise<Response> => {
    const datetime = new Date(aws.now()).toISOString().replaceAll(/[:-]|\.\d{3}/g, "");
    const signer = new AwsV4Signer({
      method: init.method,
      url: `${aws.url}${init.path}`,
      ...(init.body === undefined ? {} : { body: init.body }),
      accessKeyId: reveal(secret["access_key_id"]),
      secretAccessKey: reveal(secret["secret_access_key"]),
      sessionToken: reveal(secret["session_token"]),
      service,
      region,
      datetime,
    });
    const { url, headers } = await signer.sign();
    return fetch(url, { method: init.method, headers, ...(init.body === undefined ? {} : { body: init.body }) });
  };

  return {
    aws,
    config,
    role,
    user: aws.users.get(KEY) as { policy: unknown },
    async use(secret, path = "/reports/2026/q1.csv", method = "GET") {
      const response = await signed(secret, "s3", String(secret["region"]), { method, path });
      const text = await response.text();
      if (response.ok) return true;
      if (/<Code>(AccessDenied|ExpiredToken)</.test(text)) return false;
      throw new Error(text);
    },
    async ask(secret, service, parameters) {
      const version = service === "sts" ? "2011-06-15" : "2010-05-08";
      const body = new URLSearchParams({ Version: version, ...parameters }).toString();
      const response = await signed(secret, service, "us-east-1", { method: "POST", path: "/", body });
      return response.ok ? "done" : (/<Code>(.*)<\/Code>/.exec(await response.text())?.[1] ?? "nothing");
    },
    request(changes = {}) {
      const credentialId = newId("credential");
      const asked = {
        credentialId,
        ...awsSts.name(credentialId, config),
        access,
        expiresAt: new Date(Date.now() + 900_000),
        createWithinMs: 5_000,
        signal: never(),
        keep: async (fuller: AwsStsHandle) => {
          asked.handle = awsSts.handle.parse(JSON.parse(JSON.stringify(fuller)));
        },
        ...changes,
      };
      return asked;
    },
    [Symbol.asyncDispose]: () => aws[Symbol.asyncDispose](),
  };
}
