import { afterAll, beforeAll, describe } from "@jest/globals";
import { awsSts } from "../../src/issuers/aws-sts.ts";
import { type AwsTarget, access, awsTarget } from "./aws-target.ts";
import { itSurvivesFaults } from "./faults.ts";

describe.each(["deny_policy", "none"] as const)("AWS STS, revocation %s", (revocation) => {
  let target: AwsTarget;
  beforeAll(async () => {
    target = await awsTarget(revocation);
    target.aws.lag = 0;
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  itSurvivesFaults({
    issuer: awsSts,
    farSide: () => target.aws.url,
    config: (origin) => ({ ...target.config, sts_endpoint: origin, iam_endpoint: origin }),
    access: () => access,
    works: (secret) => target.use(secret),
    ...(revocation === "none" ? { onlyExpires: true } : {}),
    reset: () => target.role.inline.clear(),
  });
});
