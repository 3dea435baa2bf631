import { readFile } from "node:fs/promises";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { awsSts } from "../../src/issuers/aws-sts.ts";
import { trustPolicy, userPolicy } from "../../src/issuers/aws-sts-policy.ts";
import type { AwsStsConfig } from "../../src/issuers/aws-sts-session.ts";
import { ACCOUNT, type AwsTarget, access, awsTarget, USER_ARN } from "./aws-target.ts";
import { failure, never } from "./conformance.ts";

let target: AwsTarget;
beforeEach(async () => {
  target = await awsTarget("deny_policy");
});
afterEach(async () => {
  await target[Symbol.asyncDispose]();
});

const inspect = async (changes: Partial<AwsStsConfig> = {}): Promise<void> => {
  await using client = await awsSts.connect({ ...target.config, ...changes });
  await awsSts.inspect?.(client, access, never());
};

/** The JSON documents in a text, in their order. */
function documents(text: string): unknown[] {
  return [...text.matchAll(/\{"Version".*?\}\]\}/g)].map(([document]) => JSON.parse(document) as unknown);
}

const without = (action: string) => (document: unknown) =>
  JSON.parse(JSON.stringify(document).replace(`"${action}",`, "").replace(`,"${action}"`, "")) as never;

describe("an inspection", () => {
  test.each(["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"])(
    "without %s in the trust policy names it, and what it says puts it right",
    async (action) => {
      target.role.trust = without(action)(target.role.trust);
      const error = (await failure(inspect())) as { code: string; detail: string };
      expect(error).toMatchObject({
        code: "target_refused",
        detail: expect.stringContaining(`the key may not ${action}:`),
      });
      target.role.trust = documents(error.detail)[0] as never;
      await inspect();
    },
  );

  test.each(["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"])(
    "without %s in the user's policy names it, and what it says puts it right",
    async (action) => {
      target.user.policy = without(action)(target.user.policy);
      const error = (await failure(inspect())) as { code: string; detail: string };
      expect(error).toMatchObject({
        code: "target_refused",
        detail: expect.stringContaining(`the key may not ${action}:`),
      });
      target.user.policy = documents(error.detail)[1];
      await inspect();
    },
  );

  test.each(["iam:PutRolePolicy", "iam:GetRolePolicy", "iam:ListRolePolicies", "iam:DeleteRolePolicy"])(
    "without %s is refused where a policy takes back, and what it says puts it right",
    async (action) => {
      target.user.policy = without(action)(target.user.policy);
      const error = (await failure(inspect())) as { code: string; detail: string };
      expect(error.code).toBe("target_refused");
      await inspect({ revocation: "none" });
      target.user.policy = documents(error.detail)[0];
      await inspect();
      expect([...target.role.inline.keys()]).toEqual([]);
    },
  );

  test("with another external id than the trust policy's is refused", async () => {
    expect(await failure(inspect({ external_id: "somebody-elses" }))).toMatchObject({ code: "target_refused" });
  });

  test("of a role whose sessions are too short says the command that makes them longer", async () => {
    expect(await failure(inspect({ max_session_seconds: 7200 }))).toMatchObject({
      code: "target_refused",
      detail: expect.stringContaining("update-role --role-name agent-reports --max-session-duration 7200"),
    });
    target.role.maxSession = 7200;
    await inspect({ max_session_seconds: 7200 });
  });

  test("with a key of another account is refused where a policy takes back", async () => {
    const policy = { Statement: { Effect: "Allow", Action: "*", Resource: "*" } } as const;
    const secret = target.config.secret_access_key;
    target.aws.users.set("AKIASTRANGERSKEY2", { account: "999999999999", name: "mayfly", secret, policy });
    const role = target.aws.role("999999999999", "agent-reports");
    target.role.trust = JSON.parse(
      JSON.stringify(target.role.trust).replace(USER_ARN, USER_ARN.replace(ACCOUNT, "999999999999")),
    );
    expect(await failure(inspect({ access_key_id: "AKIASTRANGERSKEY2" }))).toMatchObject({
      code: "target_refused",
      detail: expect.stringContaining(`own account ${ACCOUNT}`),
    });
    expect(role.changes).toEqual([]);
    await inspect({ access_key_id: "AKIASTRANGERSKEY2", revocation: "none" });
  });

  test("leaves nothing that anybody holds, and no policy behind", async () => {
    await inspect();
    expect([...target.role.inline.keys()]).toEqual([]);
    expect(target.aws.calls.map(({ action }) => action)).toEqual([
      "GetCallerIdentity",
      "AssumeRole",
      "PutRolePolicy",
      "GetRolePolicy",
      "ListRolePolicies",
      "DeleteRolePolicy",
    ]);
  });
});

test("the documentation shows the policies that these tests run with", async () => {
  const page = await readFile(new URL("../../docs/issuers/aws-sts.md", import.meta.url), "utf8");
  const role = { arn: target.config.role_arn, externalId: target.config.external_id };
  expect(documents(page)).toEqual(
    [trustPolicy(role, USER_ARN), userPolicy(role, "deny_policy")].map((text) => JSON.parse(text)),
  );
});
