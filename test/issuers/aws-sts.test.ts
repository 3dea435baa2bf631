import { afterAll, afterEach, beforeAll, beforeEach, describe } from "@jest/globals";
import { awsSts } from "../../src/issuers/aws-sts.ts";
import { type AwsTarget, access, awsTarget } from "./aws-target.ts";
import { itIsAnIssuer } from "./conformance.ts";

const ARN = "arn:aws:s3:::reports/a-path-that-is-long-enough-to-count-";
const tooMuch = [{ actions: ["s3:GetObject"], resources: Array.from({ length: 40 }, (_, i) => `${ARN}${i}`) }];

describe("AWS STS, a policy of the role takes back", () => {
  let target: AwsTarget;
  beforeAll(async () => {
    target = await awsTarget("deny_policy");
  });
  // A role has room for 68 at a time, and nothing of them is over before the clock has moved on.
  afterEach(() => target.role.inline.clear());
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  itIsAnIssuer({
    issuer: awsSts,
    config: () => target.config,
    access: () => access,
    forbidden: () => tooMuch,
    works: (secret) => target.use(secret),
    endsAt: async (secret) => new Date(target.aws.sessions.get(String(secret["access_key_id"]))?.ends ?? Number.NaN),
    unreachable: () => ({ ...target.config, sts_endpoint: "http://127.0.0.1:1", iam_endpoint: "http://127.0.0.1:1" }),
    refused: () => ({ ...target.config, secret_access_key: "not/the/secret/of/this/key" }),
    namesAreShared: true,
    absenceIsUnseen: true,
    leavesResidue: true,
  });
});

describe("AWS STS, nothing takes back", () => {
  let target: AwsTarget;
  // One each: the clock of one that has passed is too far ahead for the next signature.
  beforeEach(async () => {
    target = await awsTarget("none");
  });
  afterEach(async () => {
    await target[Symbol.asyncDispose]();
  });

  itIsAnIssuer({
    issuer: awsSts,
    config: () => target.config,
    access: () => access,
    forbidden: () => tooMuch,
    works: (secret) => target.use(secret),
    endsAt: async (secret) => new Date(target.aws.sessions.get(String(secret["access_key_id"]))?.ends ?? Number.NaN),
    unreachable: () => ({ ...target.config, sts_endpoint: "http://127.0.0.1:1", iam_endpoint: "http://127.0.0.1:1" }),
    refused: () => ({ ...target.config, secret_access_key: "not/the/secret/of/this/key" }),
    namesAreShared: true,
    passes: (seconds) => target.aws.pass(seconds),
  });
});
