import { inspect } from "node:util";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { awsSts } from "../../src/issuers/aws-sts.ts";
import type { AwsStsTarget } from "../../src/issuers/aws-sts-session.ts";
import { childOf, parseXml } from "../../src/issuers/aws-xml.ts";
import { until } from "../support/until.ts";
import { ACCOUNT, type AwsTarget, access, awsTarget } from "./aws-target.ts";
import { failure, never } from "./conformance.ts";

let target: AwsTarget;
let client: AwsStsTarget;
beforeAll(async () => {
  target = await awsTarget("deny_policy");
  client = await awsSts.connect(target.config);
});
afterAll(async () => {
  await client[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});
beforeEach(() => {
  target.aws.calls.length = 0;
});
afterEach(() => {
  target.aws.alter = undefined;
  target.aws.rewrite = undefined;
});

const asked = () => target.aws.calls.filter(({ action }) => action === "AssumeRole");

describe("a session", () => {
  test("bears the credential's id where nobody can change it, and lasts as long as the credential", async () => {
    const request = target.request({ expiresAt: new Date(Date.now() + 1_800_900) });
    await awsSts.issue(client, request);
    const [{ parameters } = { parameters: {} as Record<string, string> }] = asked();
    expect(parameters).toMatchObject({
      RoleSessionName: `mfy_dep1_${request.credentialId.slice(4)}`,
      SourceIdentity: request.credentialId,
      "Tags.member.1.Key": "mayfly:credential",
      "Tags.member.1.Value": request.credentialId,
      "Tags.member.2.Value": "dep1",
      ExternalId: "mayfly-1",
    });
    expect(["1799", "1800"]).toContain(parameters["DurationSeconds"]);
    expect(request.handle.ends).toMatch(/Z$/);
  });

  test("may do what was granted and no more, whatever its role may", async () => {
    const { secret } = await awsSts.issue(client, target.request());
    expect(await target.use(secret)).toBe(true);
    expect(await target.use(secret, "/reports/2026/q1.csv", "PUT")).toBe(false);
    expect(await target.use(secret, "/reports/2025/q1.csv")).toBe(false);
  });

  test("may use a managed policy, and even then cannot make what would outlive it", async () => {
    const arn = `arn:aws:iam::${ACCOUNT}:policy/all`;
    target.aws.managed.set(arn, { Statement: { Effect: "Allow", Action: "*", Resource: "*" } });
    const { secret } = await awsSts.issue(client, target.request({ access: [{ policy_arns: [arn] }] }));
    expect(await target.use(secret, "/reports/2026/q1.csv", "PUT")).toBe(true);
    const other = target.aws.role(ACCOUNT, "other");
    other.trust = {
      Statement: {
        Effect: "Allow",
        Principal: {
          AWS: [...target.aws.sessions.values()].map(
            ({ name }) => `arn:aws:sts::${ACCOUNT}:assumed-role/agent-reports/${name}`,
          ),
        },
        Action: ["sts:AssumeRole", "sts:SetSourceIdentity"],
      },
    };
    const assume = { Action: "AssumeRole", RoleArn: `arn:aws:iam::${ACCOUNT}:role/other`, RoleSessionName: "onwards" };
    expect(await target.ask(secret, "sts", assume)).toBe("AccessDenied");
    expect(await target.ask(secret, "iam", { Action: "ListRolePolicies", RoleName: "other" })).toBe("AccessDenied");
  });

  test("of several grants may do each of them, said once", async () => {
    const write = { actions: ["s3:PutObject"], resources: ["arn:aws:s3:::reports/2026/*"] };
    const { secret } = await awsSts.issue(client, target.request({ access: [...access, write, ...access] }));
    expect(await target.use(secret)).toBe(true);
    expect(await target.use(secret, "/reports/2026/q1.csv", "PUT")).toBe(true);
    expect(JSON.parse(asked()[0]?.parameters["Policy"] ?? "").Statement).toHaveLength(3);
  });

  test("that nobody can take back and that could only last longer than the credential is not asked for", async () => {
    await using other = await awsTarget("none");
    await using unrevocable = await awsSts.connect(other.config);
    const request = other.request({ expiresAt: new Date(Date.now() + 800_000) });
    expect(await failure(awsSts.issue(unrevocable, request))).toMatchObject({ code: "target_rejected" });
    expect(other.aws.calls).toEqual([]);
  });

  test("of a credential that ends sooner than any session lasts the least, and is taken back in time", async () => {
    const request = target.request({ expiresAt: new Date(Date.now() + 60_000) });
    const { secret, expiresAt } = await awsSts.issue(client, request);
    expect([expiresAt, asked()[0]?.parameters["DurationSeconds"]]).toEqual([request.expiresAt, "900"]);
    expect(await target.use(secret)).toBe(true);
    await awsSts.revoke(client, request.handle, never());
    await until("it is refused", async () => !(await target.use(secret)));
  });

  test("outlives its credential by the least that AWS allows, and does not say so to its holder", async () => {
    const request = target.request({ expiresAt: new Date(Date.now() + 870_000) });
    expect((await awsSts.issue(client, request)).expiresAt).toEqual(request.expiresAt);
    expect(asked()[0]?.parameters["DurationSeconds"]).toBe("900");
    expect(Date.parse(request.handle.ends ?? "")).toBeGreaterThan(request.expiresAt.getTime());
  });

  test.each([0, -1, 0.5])("with %s ms left is not asked for", async (createWithinMs) => {
    expect(await failure(awsSts.issue(client, target.request({ createWithinMs })))).toMatchObject({
      code: "target_unavailable",
    });
    expect(asked()).toEqual([]);
  });

  test("has as long as the mint has, be it no whole number", async () => {
    await awsSts.issue(client, target.request({ createWithinMs: 4_000.5 }));
  });

  test("that has more to be told than AWS takes is not asked for", async () => {
    const resources = Array.from(
      { length: 40 },
      (_, i) => `arn:aws:s3:::reports/a-path-that-is-long-enough-to-count-${i}`,
    );
    const request = target.request({ access: [{ actions: ["s3:GetObject"], resources }] });
    expect(await failure(awsSts.issue(client, request))).toMatchObject({ code: "target_rejected" });
    expect(asked()).toEqual([]);
  });

  test("that ends earlier than asked is a credential that ends earlier", async () => {
    const soon = new Date(Date.now() + 500_000);
    target.aws.alter = (answer) => ({ ...answer, Expiration: soon.toISOString() });
    const request = target.request();
    expect((await awsSts.issue(client, request)).expiresAt).toEqual(soon);
    expect(request.handle.ends).toBe(soon.toISOString());
  });

  test.each<[string, (answer: Record<string, string>) => Record<string, string>, string]>([
    [
      "that lasts longer than asked",
      (a) => ({ ...a, Expiration: new Date(Date.now() + 1_000_000).toISOString() }),
      "rejected",
    ],
    ["of another name", (a) => ({ ...a, Arn: String(a["Arn"]).replace(/mfy_/, "mfy-") }), "rejected"],
    ["of another role", (a) => ({ ...a, Arn: String(a["Arn"]).replace("agent-reports", "admin") }), "rejected"],
    ["of another account", (a) => ({ ...a, Arn: String(a["Arn"]).replace(ACCOUNT, "999999999999") }), "rejected"],
    ["that no revoke could shut out", (a) => ({ ...a, SourceIdentity: "" }), "rejected"],
    ["that a revoke of another would shut out", (a) => ({ ...a, SourceIdentity: `crd_${"1".repeat(32)}` }), "rejected"],
    ["that does not say when it ends", (a) => ({ ...a, Expiration: "soon" }), "unavailable"],
    ["without a secret", (a) => ({ ...a, SecretAccessKey: "" }), "unavailable"],
    ["without a token", (a) => ({ ...a, SessionToken: "" }), "unavailable"],
    ["with a token that is two lines", (a) => ({ ...a, SessionToken: "one\r\ntwo: three" }), "unavailable"],
    ["that is a user's key", (a) => ({ ...a, AccessKeyId: "AKIAIOSFODNN7EXAMPLE" }), "unavailable"],
  ])("%s is not handed out", async (_what, alter, code) => {
    target.aws.alter = alter;
    expect(await failure(awsSts.issue(client, target.request()))).toMatchObject({ code: `target_${code}` });
  });

  test("that is refused for now may be asked for again, though AWS says so with a 400", async () => {
    target.aws.throttle = 1;
    const request = target.request();
    expect(await failure(awsSts.issue(client, request))).toMatchObject({
      code: "target_unavailable",
      detail: "AWS STS answered 400: Throttling",
    });
    expect(asked()).toEqual([]);
    await awsSts.issue(client, request);
  });
});

describe("what is asked for is on an allow-list", () => {
  const arn = "arn:aws:s3:::reports/*";
  test.each<[string, unknown]>([
    ["everything", { actions: ["*"], resources: [arn] }],
    ["a whole service", { actions: ["s3:*"], resources: [arn] }],
    ["any service", { actions: ["*:GetObject"], resources: [arn] }],
    ["a wildcard in the middle", { actions: ["s3:Get*Object"], resources: [arn] }],
    ["rights over rights", { actions: ["iam:PassRole"], resources: [arn] }],
    ["other sessions", { actions: ["sts:AssumeRole"], resources: [arn] }],
    ["every resource", { actions: ["s3:GetObject"], resources: ["*"] }],
    ["every resource of a service", { actions: ["s3:GetObject"], resources: ["arn:aws:s3:::*"] }],
    ["a variable", { actions: ["s3:GetObject"], resources: ["arn:aws:s3:::reports/\u0024{aws:username}"] }],
    ["a quote", { actions: ['s3:GetObject","Resource":"*'], resources: [arn] }],
    ["a quote in a resource", { actions: ["s3:GetObject"], resources: ['arn:aws:s3:::a"],"Action":["*'] }],
    ["a line more", { actions: ["s3:GetObject\ns3:PutObject"], resources: [arn] }],
    ["actions on nothing", { actions: ["s3:GetObject"] }],
    ["resources for nothing", { resources: [arn] }],
    ["nothing", {}],
    ["a policy of its own", { actions: ["s3:GetObject"], resources: [arn], policy: '{"Statement":[]}' }],
    ["a managed policy that is none", { policy_arns: ["arn:aws:iam::123456789012:role/admin"] }],
  ])("%s is refused", (_what, given) => {
    expect(awsSts.access.safeParse(given).success).toBe(false);
  });

  test.each<[string, Record<string, unknown>]>([
    ["the key of a session", { access_key_id: "ASIAIOSFODNN7EXAMPLE" }],
    ["a far side in the clear", { sts_endpoint: "http://sts.example.com:80" }],
    ["a far side with a path", { iam_endpoint: "https://iam.example.com/x" }],
    ["a far side with a user", { iam_endpoint: "https://a@iam.example.com" }],
    ["a region that is a host", { region: "eu-west-1.example.com/" }],
    ["a role that is a user", { role_arn: "arn:aws:iam::123456789012:user/mayfly" }],
    ["a role with a wildcard", { role_arn: "arn:aws:iam::123456789012:role/*" }],
    ["longer than AWS makes them", { max_session_seconds: 43_201 }],
    ["shorter than AWS makes them", { max_session_seconds: 899 }],
  ])("a target with %s is refused", (_what, changes) => {
    expect(awsSts.config.safeParse({ ...target.config, ...changes }).success).toBe(false);
  });
});

describe("an answer", () => {
  test.each([
    ["no element", "hello"],
    ["half a document", "<A><B>"],
    ["elements that cross", "<A><B></A></B>"],
    ["two documents", "<A></A><B></B>"],
    ["text around it", "x<A></A>"],
    ["a declaration of its own", "<!DOCTYPE A [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><A>&e;</A>"],
    ["an entity that it did not learn from XML", "<A>&nbsp;</A>"],
    ["a lone ampersand", "<A>a & b</A>"],
    ["a comment", "<A><!-- hello --></A>"],
    ["a character that is none", "<A>&#xFFFFF0;</A>"],
    ["more depth than any answer has", `${"<A>".repeat(20_000)}${"</A>".repeat(20_000)}`],
    ["nothing", ""],
  ])("with %s is not read", (_what, text) => {
    expect(parseXml(text)).toBeUndefined();
  });

  test("that says something twice does not say it", () => {
    const xml = parseXml("<A><B>1</B><B>2</B><C>3</C></A>");
    expect([childOf(xml, "B"), childOf(xml, "C")?.text]).toEqual([undefined, "3"]);
  });

  test.each<[string, (text: string) => { status: number; body: string }, string]>([
    [
      "to another question",
      (body) => ({ status: 200, body: body.replaceAll("AssumeRoleResponse", "AssumeRootResponse") }),
      "unavailable",
    ],
    ["that is a session and a failure", (body) => ({ status: 500, body }), "unavailable"],
    [
      "that is an error and a success",
      () => ({ status: 200, body: "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>" }),
      "unavailable",
    ],
    [
      "that fails in a way of its own",
      () => ({ status: 400, body: "<ErrorResponse><Error><Code>wJalrXUtnFEMI</Code></Error></ErrorResponse>" }),
      "rejected",
    ],
  ])("%s is an error that quotes nothing", async (_what, rewrite, code) => {
    target.aws.rewrite = ({ body }) => rewrite(body);
    const error = await failure(awsSts.issue(client, target.request()));
    expect(error).toMatchObject({ code: `target_${code}` });
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain("wJalrXUtnFEMI");
  });

  test("is read with its attributes skipped and its entities decoded", () => {
    const text = `<?xml version="1.0" encoding="UTF-8"?>\n<A xmlns="https://x/">\n <B a="1" />\n <C>1 &lt; 2 &amp;amp; &#x41;&#66;</C>\n</A>\n`;
    expect(parseXml(text)).toMatchObject({
      name: "A",
      children: [
        { name: "B", text: "" },
        { name: "C", text: "1 < 2 &amp; AB" },
      ],
    });
  });
});
