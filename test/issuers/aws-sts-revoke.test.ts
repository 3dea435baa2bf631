import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { awsSts } from "../../src/issuers/aws-sts.ts";
import type { AwsStsTarget } from "../../src/issuers/aws-sts-session.ts";
import type { Id } from "../../src/lib/ids.ts";
import { ACCOUNT, type AwsTarget, awsTarget } from "./aws-target.ts";
import { failure, never } from "./conformance.ts";

let target: AwsTarget;
let client: AwsStsTarget;
beforeEach(async () => {
  target = await awsTarget("deny_policy");
  client = await awsSts.connect(target.config);
});
afterEach(async () => {
  await client[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});

const policies = () => [...target.role.inline.keys()];
const calls = (action: string) => target.aws.calls.filter((one) => one.action === action).length;
const seconds = (fromNow: number) => Math.ceil(Date.now() / 1000) + fromNow;
const hex = (digit: string) => digit.repeat(32);

describe("a revoke", () => {
  test("names what it leaves, and what it leaves bites as soon as AWS has spread it", async () => {
    const request = target.request();
    const { secret } = await awsSts.issue(client, request);
    const { residue } = await awsSts.revoke(client, request.handle, never());
    const ends = Math.ceil(Date.parse(request.handle.ends ?? "") / 1000);
    expect(policies()).toEqual([`mayfly-deny-dep1-${ends}-${request.credentialId.slice(4)}`]);
    expect(residue).toContain(policies()[0]);
    expect(await awsSts.revoke(client, request.handle, never())).toEqual({ residue });
    expect(calls("PutRolePolicy")).toBe(1);
    // The record is there at once and the effect is not: that is what the declared bound is for.
    expect(await awsSts.probe(client, request.handle, never())).toMatchObject({ outcome: "dead", by: "iam_policy" });
    const tries: boolean[] = [];
    while (tries.at(-1) !== false) tries.push(await target.use(secret));
    expect(tries).toEqual([true, true, false]);
    expect(awsSts.bounds(target.config).effectiveBoundSeconds).toBeGreaterThan(0);
  });

  test("of many sessions at once over two processes loses none", async () => {
    await using other = await awsSts.connect(target.config);
    const requests = await Promise.all(
      Array.from({ length: 30 }, async () => {
        const request = target.request();
        await awsSts.issue(client, request);
        return request;
      }),
    );
    await Promise.all(requests.map(({ handle }, i) => awsSts.revoke(i % 2 ? client : other, handle, never())));
    for (const { handle } of requests)
      expect(await awsSts.probe(client, handle, never())).toMatchObject({ outcome: "dead" });
    expect(policies()).toHaveLength(30);
  });

  test.each(["removed", "changed"])("whose policy somebody %s is not dead, and is done again", async (what) => {
    const request = target.request();
    await awsSts.issue(client, request);
    await awsSts.revoke(client, request.handle, never());
    const [name = ""] = policies();
    if (what === "removed") target.role.inline.delete(name);
    else target.role.inline.set(name, '{"Statement":{"Effect":"Deny","Action":"s3:PutObject","Resource":"*"}}');
    expect(await awsSts.probe(client, request.handle, never())).toMatchObject({ outcome: "alive" });
    await awsSts.revoke(client, request.handle, never());
    expect(await awsSts.probe(client, request.handle, never())).toMatchObject({ outcome: "dead" });
  });

  test("of a session that has ended by AWS's clock writes nothing", async () => {
    const request = target.request();
    await awsSts.issue(client, request);
    const handle = { ...request.handle, ends: new Date(Date.now() - 2_000).toISOString() };
    expect(await awsSts.revoke(client, handle, never())).toEqual({});
    expect(await awsSts.probe(client, handle, never())).toMatchObject({ outcome: "dead", by: "sts_expiry" });
    expect([calls("PutRolePolicy"), policies()]).toEqual([0, []]);
  });

  test.each([
    ["ahead of", 200, 100, "dead"],
    ["behind", -200, -100, "alive"],
  ])("goes by AWS's clock, which is %s ours", async (_how, passes, ends, before) => {
    const { handle } = target.request();
    target.aws.pass(passes);
    const kept = { ...handle, ends: new Date(Date.now() + ends * 1000).toISOString() };
    expect(await awsSts.probe(client, kept, never())).toMatchObject({ outcome: before });
    await awsSts.revoke(client, kept, never());
    expect(policies()).toHaveLength(before === "alive" ? 1 : 0);
  });

  test.each([
    ["of another policy", (body: string) => body.replace(/mayfly-deny-dep1-[0-9]+/, "mayfly-deny-dep1-1")],
    ["of another role", (body: string) => body.replace("agent-reports", "agent-report")],
    ["of another question", (body: string) => body.replaceAll("GetRolePolicyResponse", "GetUserPolicyResponse")],
  ])("is not proven by a record %s", async (_what, rewrite) => {
    const { handle } = target.request();
    await awsSts.revoke(client, handle, never());
    target.aws.rewrite = ({ status, body }) => ({ status, body: rewrite(body) });
    expect(await awsSts.probe(client, handle, never())).toMatchObject({ outcome: "unknown" });
  });

  test("is not proven by the clock of something in between", async () => {
    const { handle } = target.request();
    const over = { ...handle, ends: new Date(Date.now() - 2_000).toISOString() };
    expect(await awsSts.probe(client, over, never())).toMatchObject({ outcome: "dead", by: "sts_expiry" });
    target.aws.rewrite = () => ({ status: 404, body: "<html>not here</html>" });
    expect(await awsSts.probe(client, over, never())).toMatchObject({ outcome: "unknown" });
  });

  test("whose policy was answered with something else has not worked", async () => {
    const { handle } = target.request();
    target.aws.rewrite = ({ status, body }) => ({
      status,
      body: body.replace(/<PutRolePolicyResponse.*/s, "<html></html>"),
    });
    expect(await failure(awsSts.revoke(client, handle, never()))).toMatchObject({ code: "target_unavailable" });
  });

  test.each([
    ["just made", 0, "alive"],
    ["that may have been made just before its signature was too old", 3600 + 14 * 60, "alive"],
    ["that can only have ended", 3600 + 16 * 60, "dead"],
  ])("of a session that nobody was told of, %s: shut out as long as it may last", async (_when, ago, before) => {
    const time = (Date.now() - ago * 1000).toString(16).padStart(12, "0");
    const { handle } = awsSts.name(`crd_${time}7${"0".repeat(19)}` as Id<"credential">, target.config);
    expect(await awsSts.probe(client, handle, never())).toMatchObject({ outcome: before });
    await awsSts.revoke(client, handle, never());
    expect(await awsSts.probe(client, handle, never())).toMatchObject({ outcome: "dead" });
    expect(policies()).toHaveLength(before === "alive" ? 1 : 0);
  });

  test("removes the policies of sessions that have ended, and touches nobody else's", async () => {
    const kept = [
      `mayfly-deny-dep1-${seconds(900)}-${hex("1")}`,
      `mayfly-deny-dep1-${seconds(-200)}-${hex("2")}`,
      `mayfly-deny-dep2-${seconds(-9000)}-${hex("3")}`,
      `mayfly-deny-dep1-${seconds(-9000)}-${hex("4")}-mine`,
      "AWSRevokeOlderSessions",
    ];
    const gone = [`mayfly-deny-dep1-${seconds(-400)}-${hex("5")}`, `mayfly-deny-dep1-0-${hex("0")}`];
    for (const name of [...kept, ...gone]) target.role.inline.set(name, '{"Statement":[]}');
    const { handle } = target.request();
    await awsSts.revoke(client, handle, never());
    expect(policies().slice(0, -1).sort()).toEqual(kept.sort());
  });

  test("without room is tried again, and there is room when a session has ended", async () => {
    const filler = JSON.stringify({ Statement: [], filler: "x".repeat(10_000) });
    target.role.inline.set(`mayfly-deny-dep1-${seconds(900)}-${hex("1")}`, filler);
    const requests = [target.request(), target.request()];
    await awsSts.revoke(client, requests[0]?.handle ?? { session: "" }, never());
    const full = requests[1]?.handle ?? { session: "" };
    expect(await failure(awsSts.revoke(client, full, never()))).toMatchObject({
      code: "target_unavailable",
      detail: expect.stringContaining("has no room"),
    });
    expect(await awsSts.probe(client, full, never())).toMatchObject({ outcome: "alive" });
    target.role.inline.delete(`mayfly-deny-dep1-${seconds(900)}-${hex("1")}`);
    for (const name of policies().slice(0, 1)) target.role.inline.delete(name);
    target.role.inline.set(`mayfly-deny-dep1-${seconds(-400)}-${hex("1")}`, filler.replace("x", "x".repeat(180)));
    await awsSts.revoke(client, full, never());
    expect(await awsSts.probe(client, full, never())).toMatchObject({ outcome: "dead" });
  });

  test("whose cleaning fails has worked all the same", async () => {
    const user = target.user as { policy: { Statement: { Action: string[] }[] } };
    for (const statement of user.policy.Statement)
      statement.Action = statement.Action.filter((action) => action !== "iam:ListRolePolicies");
    const { handle } = target.request();
    await awsSts.revoke(client, handle, never());
    expect(await awsSts.probe(client, handle, never())).toMatchObject({ outcome: "dead" });
  });

  test("with a key of another account touches no role of the same name there, and proves nothing", async () => {
    const stranger = target.aws.role("999999999999", "agent-reports");
    const secret = target.config.secret_access_key;
    const policy = { Statement: { Effect: "Allow", Action: "*", Resource: "*" } } as const;
    target.aws.users.set("AKIASTRANGERSKEY2", { account: "999999999999", name: "mayfly", secret, policy });
    await using other = await awsSts.connect({ ...target.config, access_key_id: "AKIASTRANGERSKEY2" });
    const { handle } = target.request();
    for (let i = 0; i < 2; i += 1) {
      expect(await failure(awsSts.revoke(other, handle, never()))).toMatchObject({ code: "target_rejected" });
      expect(await awsSts.probe(other, handle, never())).toMatchObject({ outcome: "unknown" });
    }
    expect(stranger.inline.size).toBe(0);
    await awsSts.revoke(client, handle, never());
    expect(await awsSts.probe(other, handle, never())).toMatchObject({ outcome: "unknown" });
    expect(ACCOUNT).not.toBe("999999999999");
  });

  test("asks once whose key it is, and again when it was not told", async () => {
    await using far = await awsSts.connect({ ...target.config, secret_access_key: "not/the/secret/of/this/key" });
    const { handle } = target.request();
    for (let i = 0; i < 2; i += 1)
      expect(await failure(awsSts.revoke(far, handle, never()))).toMatchObject({ code: "target_rejected" });
    expect(await failure(awsSts.revoke(client, handle, AbortSignal.abort()))).toMatchObject({
      code: "target_unavailable",
    });
    for (let i = 0; i < 3; i += 1) await awsSts.revoke(client, handle, never());
    expect(calls("GetCallerIdentity")).toBe(1);
  });

  test("of a role that is gone is no success", async () => {
    await using other = await awsSts.connect({ ...target.config, role_arn: `arn:aws:iam::${ACCOUNT}:role/gone` });
    const user = target.user as { policy: { Statement: { Resource: string }[] } };
    for (const statement of user.policy.Statement) statement.Resource = "*";
    const { handle } = target.request();
    expect(await failure(awsSts.revoke(other, handle, never()))).toMatchObject({ code: "target_rejected" });
    expect(await awsSts.probe(other, handle, never())).toMatchObject({ outcome: "alive" });
  });
});

test("where nothing takes back, a revoke says so and a probe does not claim a death", async () => {
  await using open = await awsTarget("none");
  await using own = await awsSts.connect(open.config);
  const { handle } = open.request();
  expect(await failure(awsSts.revoke(own, handle, never()))).toMatchObject({ code: "not_supported" });
  expect(await awsSts.probe(own, handle, never())).toMatchObject({ outcome: "unknown", by: "expiry" });
  expect(open.aws.calls).toEqual([]);
});
