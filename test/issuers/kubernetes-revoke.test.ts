import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { type KubernetesHandle, kubernetes } from "../../src/issuers/kubernetes.ts";
import { failure, never } from "./conformance.ts";
import type { FakeSecret } from "./kubernetes-fake.ts";
import { documentedRules, type KubernetesTarget, kubernetesTarget, reporting, revealed } from "./kubernetes-target.ts";

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

const probe = (handle: KubernetesHandle) => kubernetes.probe(client, handle, never());

/** A Secret as somebody else would make it, with what is given. */
function put(name: string, changes: Partial<FakeSecret["metadata"]>, data?: Readonly<Record<string, string>>): void {
  target.fake.secrets.set(name, {
    apiVersion: "v1",
    kind: "Secret",
    type: "Opaque",
    ...(data === undefined ? {} : { data }),
    metadata: { name, namespace: "agents", uid: name, resourceVersion: "1", labels: {}, annotations: {}, ...changes },
  });
}

describe("a revoke", () => {
  test("deletes the very Secret that it looked at, and says how it is known to be gone", async () => {
    const asked = target.request();
    await kubernetes.issue(client, asked);
    const uid = target.fake.secrets.get(asked.handle.name)?.metadata.uid;
    await kubernetes.revoke(client, asked.handle, never());
    expect(target.fake.requests.at(-1)?.body).toMatchObject({ preconditions: { uid } });
    expect(await probe(asked.handle)).toEqual({
      outcome: "dead",
      by: "bound_object",
      detail: "no Secret of that name: tokens bound to it are refused",
    });
  });

  test("holds everywhere once the declared bound is over: an API server may remember a token until then", async () => {
    target.fake.remembersSeconds = 10;
    const asked = target.request();
    const { secret } = await kubernetes.issue(client, asked);
    const works = (): boolean => target.fake.authenticates(revealed(secret, "token"));
    expect(works()).toBe(true);
    await kubernetes.revoke(client, asked.handle, never());
    expect(works()).toBe(true);
    target.fake.advance(kubernetes.bounds(target.config).effectiveBoundSeconds);
    expect(works()).toBe(false);
  });

  test("does not touch what was replaced while it looked", async () => {
    const asked = target.request();
    await kubernetes.issue(client, asked);
    target.fake.intercept = ({ method }) => {
      if (method === "DELETE") put(asked.handle.name, { uid: "another" });
      return false;
    };
    expect(await failure(kubernetes.revoke(client, asked.handle, never()))).toMatchObject({
      code: "target_unavailable",
    });
    expect(target.fake.secrets.has(asked.handle.name)).toBe(true);
  });

  test.each<[string, (id: string, deployment: string) => Partial<FakeSecret["metadata"]>]>([
    ["no label", (id) => ({ annotations: { "mayfly.dev/credential": id } })],
    ["no annotation", (_id, deployment) => ({ labels: { "mayfly.dev/deployment": deployment } })],
    [
      "another credential's annotation",
      (_id, deployment) => ({
        labels: { "mayfly.dev/deployment": deployment },
        annotations: { "mayfly.dev/credential": `crd_${"0".repeat(32)}` },
      }),
    ],
    [
      "another deployment's label",
      (id) => ({ labels: { "mayfly.dev/deployment": "other" }, annotations: { "mayfly.dev/credential": id } }),
    ],
  ])("does not touch a Secret of the same name with %s, and does not call it dead or alive", async (_what, marks) => {
    const asked = target.request();
    put(asked.handle.name, marks(asked.credentialId, target.config.deployment));
    expect(await failure(kubernetes.revoke(client, asked.handle, never()))).toMatchObject({ code: "target_rejected" });
    expect(await probe(asked.handle)).toMatchObject({ outcome: "unknown" });
    expect(target.fake.secrets.has(asked.handle.name)).toBe(true);
    expect(target.fake.requests.filter(({ method }) => method === "DELETE")).toEqual([]);
  });

  test("is not done while a finalizer holds the Secret: it is alive until it is gone", async () => {
    const asked = target.request();
    const { secret } = await kubernetes.issue(client, asked);
    const held = target.fake.secrets.get(asked.handle.name);
    if (held === undefined) throw new Error("no Secret");
    held.metadata.finalizers = ["example.com/hold"];
    await kubernetes.revoke(client, asked.handle, never());
    expect(target.fake.authenticates(revealed(secret, "token"))).toBe(true);
    expect(await probe(asked.handle)).toMatchObject({
      outcome: "alive",
      detail: expect.stringContaining("finalizer"),
    });
    held.metadata.finalizers = [];
    await kubernetes.revoke(client, asked.handle, never());
    expect(await probe(asked.handle)).toMatchObject({ outcome: "dead" });
  });
});

const said = (changes: object): string =>
  JSON.stringify({ kind: "Status", apiVersion: "v1", status: "Failure", reason: "NotFound", code: 404, ...changes });

describe("only the API server's own word counts as gone", () => {
  test.each<[string, number, (name: string) => string]>([
    ["a proxy's 404", 404, () => "<html>not found</html>"],
    ["an empty 404", 404, () => ""],
    ["a 404 of another API", 404, () => '{"error":"not found"}'],
    ["a Status of another thing", 404, () => said({ details: { kind: "secrets", name: "another" } })],
    ["a Status of another kind", 404, (name) => said({ details: { kind: "namespaces", name } })],
    ["a Status without details", 404, () => said({})],
    ["a Status of another reason", 404, (name) => said({ reason: "Gone", details: { kind: "secrets", name } })],
    ["a Status with another code", 404, (name) => said({ code: 500, details: { kind: "secrets", name } })],
    ["a Status under another status", 410, (name) => said({ details: { kind: "secrets", name } })],
    ["the words under another status", 410, (name) => said({ code: 410, details: { kind: "secrets", name } })],
    ["a refusal", 403, (name) => said({ code: 403, reason: "Forbidden", details: { kind: "secrets", name } })],
    ["a server that is overloaded", 503, (name) => said({ details: { kind: "secrets", name } })],
    ["a success that is no object", 200, () => "null"],
    ["a success without metadata", 200, () => "{}"],
  ])("%s is unknown, and a revoke fails", async (_what, status, body) => {
    const asked = target.request();
    await kubernetes.issue(client, asked);
    target.fake.intercept = ({ method }, response) => {
      if (method !== "GET") return false;
      response.writeHead(status).end(body(asked.handle.name));
      return true;
    };
    expect(await probe(asked.handle)).toMatchObject({ outcome: "unknown" });
    const code = status === 503 || status === 200 ? "target_unavailable" : "target_rejected";
    expect(await failure(kubernetes.revoke(client, asked.handle, never()))).toMatchObject({ code });
    expect(target.fake.secrets.has(asked.handle.name)).toBe(true);
  });

  test("a delete that something else answered with 404 failed", async () => {
    const asked = target.request();
    await kubernetes.issue(client, asked);
    target.fake.intercept = ({ method }, response) => {
      if (method !== "DELETE") return false;
      response.writeHead(404).end("not here");
      return true;
    };
    expect(await failure(kubernetes.revoke(client, asked.handle, never()))).toMatchObject({ code: "target_rejected" });
  });
});

describe("the list", () => {
  test("has every page, of this deployment alone, and reads nothing of what Secrets hold", async () => {
    const ours = Array.from({ length: 230 }, () => target.request());
    for (const { handle, credentialId } of ours)
      put(
        handle.name,
        {
          labels: { "mayfly.dev/deployment": target.config.deployment },
          annotations: { "mayfly.dev/credential": credentialId },
        },
        { password: "bm90IG91cnM=" },
      );
    put("foreign", { labels: { "mayfly.dev/deployment": target.config.deployment } });
    put("mayfly-other", { labels: { "mayfly.dev/deployment": "other" } });
    const listed = await kubernetes.list?.(client, never());
    expect(listed?.map(({ downstreamName }) => downstreamName)).toEqual(
      ours.map(({ handle }) => handle.name).toSorted(),
    );
    const asked = target.fake.requests.filter(({ method }) => method === "GET");
    expect(asked.map(({ query }) => query.get("limit"))).toEqual(["100", "100", "100"]);
    for (const { query } of asked)
      expect(query.get("labelSelector")).toBe(`mayfly.dev/deployment=${target.config.deployment}`);
    for (const { headers } of asked) expect(headers.accept).toContain("as=PartialObjectMetadataList");
  });

  test.each([
    [410, "target_unavailable"],
    [403, "target_rejected"],
    [500, "target_unavailable"],
  ])("that breaks off with %i is no list", async (status, code) => {
    for (let i = 0; i < 101; i += 1) await kubernetes.issue(client, target.request());
    target.fake.intercept = ({ query }, response) => {
      if (!query.has("continue")) return false;
      response.writeHead(status).end("{}");
      return true;
    };
    expect(await failure(kubernetes.list?.(client, never()) ?? Promise.resolve())).toMatchObject({ code });
  });
});

describe("an inspection", () => {
  const inspect = (access = [reporting]): Promise<unknown> =>
    failure(kubernetes.inspect?.(client, access, never()) ?? Promise.resolve());

  test("misses each verb of the documented Role, and says which", async () => {
    const rules = await documentedRules();
    expect(rules.map(({ verbs }) => verbs.length)).toEqual([4, 1]);
    for (const [at, { resources, verbs }] of rules.entries())
      for (const verb of verbs) {
        target.fake.rules = rules.map((rule, index) =>
          index === at ? { ...rule, verbs: verbs.filter((one) => one !== verb) } : rule,
        );
        expect(await inspect()).toMatchObject({
          code: "target_refused",
          detail: expect.stringContaining(`- { apiGroups: [""], resources: [${resources[0]}], verbs: [${verb}]`),
        });
      }
  });

  test("refuses a broker that may be every account of the namespace", async () => {
    target.fake.rules = (await documentedRules()).map(({ resources, verbs }) => ({ resources, verbs }));
    expect(await inspect()).toMatchObject({
      code: "target_refused",
      detail: expect.stringContaining("every account in namespace agents: name them"),
    });
  });

  test("says what is missing when it may not even ask", async () => {
    target.fake.basicUser = false;
    expect(await inspect()).toMatchObject({
      code: "target_refused",
      detail: expect.stringContaining("system:basic-user"),
    });
  });
});
