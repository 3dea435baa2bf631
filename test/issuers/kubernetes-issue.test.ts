import { inspect } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { type KubernetesAccess, kubernetes } from "../../src/issuers/kubernetes.ts";
import { openKubernetes } from "../../src/issuers/kubernetes-client.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { failure, never } from "./conformance.ts";
import { deploying, type KubernetesTarget, kubernetesTarget, reporting, revealed } from "./kubernetes-target.ts";

let target: KubernetesTarget;
let client: Awaited<ReturnType<typeof kubernetes.connect>>;
beforeEach(async () => {
  target = await kubernetesTarget();
  client = await kubernetes.connect(target.config);
});
afterEach(async () => {
  await client[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});

const tokenRequest = () => target.fake.requests.find(({ path }) => path.endsWith("/token"))?.body["spec"];

describe("a token", () => {
  test("is bound to a Secret of its own, by uid, that says whose it is and holds nothing", async () => {
    const asked = target.request();
    const { secret } = await kubernetes.issue(client, asked);
    const bound = target.fake.secrets.get(asked.handle.name);
    expect(bound).toMatchObject({
      immutable: true,
      metadata: {
        labels: { "mayfly.dev/deployment": target.config.deployment },
        annotations: { "mayfly.dev/credential": asked.credentialId },
      },
    });
    expect(bound?.data).toBeUndefined();
    expect(tokenRequest()).toEqual({
      expirationSeconds: 600,
      boundObjectRef: { kind: "Secret", apiVersion: "v1", name: asked.handle.name, uid: bound?.metadata.uid },
    });
    expect({ ...secret, token: "" }).toEqual({
      server: target.config.url,
      namespace: "agents",
      service_account: "reporting",
      token: "",
    });
  });

  test("ends by itself a little after the credential, when that is later than the server's minimum", async () => {
    const asked = target.request({ expiresAt: new Date(Date.now() + 3600_000) });
    const { secret, expiresAt } = await kubernetes.issue(client, asked);
    expect(expiresAt).toBeUndefined();
    const ends = target.fake.tokens.get(revealed(secret, "token"))?.expiresAt ?? 0;
    expect(ends - asked.expiresAt.getTime()).toBeGreaterThanOrEqual(0);
    expect(ends - asked.expiresAt.getTime()).toBeLessThanOrEqual(7_000);
  });

  test("works on without Mayfly no longer than the declared backstop", async () => {
    const asked = target.request({ expiresAt: new Date(Date.now() + 1000) });
    const { secret } = await kubernetes.issue(client, asked);
    target.fake.advance(600);
    expect(target.fake.authenticates(revealed(secret, "token"))).toBe(true);
    // The 10 s on top are the API server's memory of a token that it accepted.
    target.fake.advance((kubernetes.bounds(target.config).backstopSeconds ?? 0) - 10 - 600 + 1);
    expect(target.fake.authenticates(revealed(secret, "token"))).toBe(false);
  });

  test("of a server that allows less ends the credential earlier", async () => {
    target.fake.maxExpiration = 1200;
    const asked = target.request({ expiresAt: new Date(Date.now() + 3600_000) });
    const { expiresAt } = await kubernetes.issue(client, asked);
    expect(Math.abs((expiresAt?.getTime() ?? 0) - (Date.now() + 1200_000))).toBeLessThan(60_000);
  });

  test("that lives longer than asked for is not handed out", async () => {
    target.fake.extendBy = 365 * 86_400;
    expect(await failure(kubernetes.issue(client, target.request()))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("longer"),
    });
  });

  test.each([
    ["is not bound", { boundObjectRef: { kind: "Secret", name: "x", uid: "another" } }, "target_rejected"],
    ["is bound to something else", { boundObjectRef: { kind: "Pod", name: "x", uid: undefined } }, "target_rejected"],
    ["says nothing of what it is bound to", {}, "target_unavailable"],
  ])("that %s is not handed out", async (_what, spec, code) => {
    target.fake.intercept = ({ path, body }, response) => {
      if (!path.endsWith("/token")) return false;
      const { boundObjectRef } = body["spec"] as { boundObjectRef: { uid: string } };
      const given =
        "boundObjectRef" in spec
          ? { boundObjectRef: { uid: boundObjectRef.uid, ...withoutUndefined(spec.boundObjectRef) } }
          : {};
      response.end(
        JSON.stringify({ spec: given, status: { token: "t", expirationTimestamp: new Date().toISOString() } }),
      );
      return true;
    };
    expect(await failure(kubernetes.issue(client, target.request()))).toMatchObject({ code });
  });

  test("of an audience is for it alone", async () => {
    const asked = target.request({ access: [{ ...reporting, audiences: ["https://tool.example.com"] }] });
    const { secret } = await kubernetes.issue(client, asked);
    const token = revealed(secret, "token");
    expect(target.fake.authenticates(token)).toBe(false);
    expect(target.fake.authenticates(token, "https://tool.example.com")).toBe(true);
  });

  test("of several accounts is one each, the same one once, and all end with the one Secret", async () => {
    const asked = target.request({ access: [reporting, deploying, { ...reporting }] });
    const { secret } = await kubernetes.issue(client, asked);
    const tokens = [revealed(secret, "reporting.token"), revealed(secret, "deploying.token")];
    expect(target.fake.tokens.size).toBe(2);
    expect(tokens.map((one) => target.fake.authenticates(one))).toEqual([true, true]);
    await kubernetes.revoke(client, asked.handle, never());
    expect(tokens.map((one) => target.fake.authenticates(one))).toEqual([false, false]);
  });

  test("of one account for two audiences stands beside the other", async () => {
    const access = [
      { ...reporting, audiences: ["a", "b"] },
      { ...reporting, audiences: ["c"] },
      { ...reporting, audiences: ["b", "a"] },
    ];
    const { secret } = await kubernetes.issue(client, target.request({ access }));
    expect(Object.keys(secret).filter((name) => name.endsWith("token"))).toEqual([
      "reporting.token",
      "reporting#2.token",
    ]);
    expect(target.fake.authenticates(revealed(secret, "reporting#2.token"), "c")).toBe(true);
  });

  test("that was asked for before a revoke and arrives after it is refused", async () => {
    let release = (): void => undefined;
    const held = new Promise<void>((arrived) => {
      target.fake.intercept = async ({ path }) => {
        if (!path.endsWith("/token")) return false;
        arrived();
        await new Promise<void>((go) => {
          release = go;
        });
        return false;
      };
    });
    const asked = target.request();
    const issued = failure(kubernetes.issue(client, asked));
    await held;
    await kubernetes.revoke(client, asked.handle, never());
    release();
    expect(await issued).toMatchObject({ code: "target_rejected" });
    expect(target.fake.tokens.size).toBe(0);
  });

  test("is not asked for when the time ran out while its Secret was made", async () => {
    const { now } = performance;
    target.fake.intercept = ({ path }) => {
      if (path.endsWith("/secrets")) performance.now = () => now.call(performance) + 5_000;
      return false;
    };
    try {
      expect(await failure(kubernetes.issue(client, target.request()))).toMatchObject({ code: "target_unavailable" });
    } finally {
      performance.now = now;
    }
    expect(target.fake.requests.filter(({ path }) => path.endsWith("/token"))).toEqual([]);
  });
});

describe("errors say what to do, and nothing that was sent or came", () => {
  test("a name that is taken", async () => {
    const asked = target.request();
    await kubernetes.issue(client, asked);
    expect(await failure(kubernetes.issue(client, asked))).toMatchObject({
      code: "target_rejected",
      detail: `there is a Secret ${asked.handle.name} already`,
    });
  });

  test("an account that is not there, and one that the Role does not name", async () => {
    target.fake.serviceAccounts.delete("reporting");
    expect(await failure(kubernetes.issue(client, target.request()))).toMatchObject({
      code: "target_rejected",
      detail: "Kubernetes answered 404: there is no service account reporting in namespace agents",
    });
    const access = [{ service_account: "powerful" }];
    expect(await failure(kubernetes.issue(client, target.request({ access })))).toMatchObject({
      detail: expect.stringContaining(
        `- { apiGroups: [""], resources: [serviceaccounts/token], verbs: [create], resourceNames: [powerful] }`,
      ),
    });
  });

  test.each([
    ["a refusal that quotes the request", 400, (sent: string) => JSON.stringify({ kind: "Status", message: sent })],
    ["a page of something in between", 502, (sent: string) => `<html>${sent}</html>`],
    ["an answer that is no JSON", 200, (sent: string) => sent],
  ])("%s", async (_what, status, body) => {
    target.fake.intercept = ({ headers }, response) => {
      response.writeHead(status).end(body(String(headers.authorization)));
      return true;
    };
    const error = await failure(kubernetes.issue(client, target.request()));
    expect(error).toBeInstanceOf(MayflyError);
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(target.fake.adminToken);
  });

  test("a limit of the rate is tried again when it says", async () => {
    target.fake.intercept = (_seen, response) => {
      response.writeHead(429, { "retry-after": "3" }).end("{}");
      return true;
    };
    expect(await failure(kubernetes.issue(client, target.request()))).toMatchObject({
      code: "target_unavailable",
      retryAfterSeconds: 3,
    });
  });

  test("without a token of its own the mounted one is used, and its absence says where it should be", async () => {
    await using own = await kubernetes.connect({ ...target.config, token: undefined });
    expect(await failure(kubernetes.issue(own, target.request()))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("/var/run/secrets/mayfly/127.0.0.1_"),
    });
  });
});

describe("access and config leave no way out of the namespace", () => {
  test("no path leads anywhere but where it says", async () => {
    await using lane = openKubernetes(target.config);
    for (const segment of ["..", ".", ""])
      expect(await failure(lane.call({ method: "GET", path: ["api", segment] }, never()))).toMatchObject({
        code: "internal",
      });
    await lane.call({ method: "GET", path: ["a/b", "%2e%2e", "c?d#e"] }, never());
    expect(target.fake.requests.map(({ path }) => path)).toEqual(["/a%2Fb/%252e%252e/c%3Fd%23e"]);
  });

  test.each<unknown>([
    "../../secrets/x",
    "..",
    "a/b",
    "a?b",
    "a#b",
    "%2e%2e",
    "UPPER",
    "-a",
    "a\n",
    "",
    "a".repeat(254),
  ])("service account %j", (service_account) => {
    expect(kubernetes.access.safeParse({ service_account }).success).toBe(false);
  });

  test.each<Partial<KubernetesAccess>>([{ audiences: [] }, { audiences: ["a b"] }, { audiences: ["a\r\nb"] }])(
    "access %j",
    (more) => {
      expect(kubernetes.access.safeParse({ ...reporting, ...more }).success).toBe(false);
    },
  );

  test.each([
    { url: "http://10.0.0.1" },
    { url: "https://k8s.example.com/api" },
    { namespace: "../kube-system" },
    { namespace: "kube_system" },
    { namespace: "a/b" },
    { token: "a b" },
    { token: "a\r\nb" },
    { deployment: "a,b" },
    { deployment: "a=b" },
    { ca: "not PEM" },
  ])("config %j", (changes) => {
    expect(kubernetes.config.safeParse({ ...target.config, ...changes }).success).toBe(false);
  });
});

function withoutUndefined(given: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}
