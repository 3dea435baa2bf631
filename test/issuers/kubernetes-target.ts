import { readFile } from "node:fs/promises";
import type { IssueRequest } from "../../src/issuers/issuer.ts";
import {
  type KubernetesAccess,
  type KubernetesConfig,
  type KubernetesHandle,
  kubernetes,
} from "../../src/issuers/kubernetes.ts";
import { newId } from "../../src/lib/ids.ts";
import { Secret } from "../../src/lib/secret.ts";
import { never } from "./conformance.ts";
import { type FakeKubernetes, fakeKubernetes, type Rule } from "./kubernetes-fake.ts";

export interface KubernetesTarget extends AsyncDisposable {
  readonly fake: FakeKubernetes;
  readonly config: KubernetesConfig;
  request(
    changes?: Partial<IssueRequest<KubernetesAccess, KubernetesHandle>>,
  ): IssueRequest<KubernetesAccess, KubernetesHandle>;
}

export const reporting: KubernetesAccess = { service_account: "reporting" };
export const deploying: KubernetesAccess = { service_account: "deploying" };

/** The rules of the broker's Role, out of the documentation. */
export async function documentedRules(): Promise<Rule[]> {
  const page = await readFile(new URL("../../docs/issuers/kubernetes.md", import.meta.url), "utf8");
  const items = (text = ""): string[] => text.split(", ").filter((one) => one !== "");
  return [
    ...page.matchAll(
      /^ {2}- \{ apiGroups: \[""\], resources: \[(.*?)\], verbs: \[(.*?)\](?:, resourceNames: \[(.*?)\])? \}$/gm,
    ),
  ].map(([, resources, verbs, names]) => ({
    resources: items(resources),
    verbs: items(verbs),
    ...(names === undefined ? {} : { resourceNames: items(names) }),
  }));
}

export async function kubernetesTarget(): Promise<KubernetesTarget> {
  const fake = await fakeKubernetes();
  fake.rules = await documentedRules();
  const config = kubernetes.config.parse({ url: fake.url, namespace: fake.namespace, token: fake.adminToken });
  return {
    fake,
    config,
    request(given = {}) {
      const credentialId = given.credentialId ?? newId("credential");
      return {
        credentialId,
        ...kubernetes.name(credentialId, config),
        access: [reporting],
        expiresAt: new Date(Date.now() + 60_000),
        createWithinMs: 5_000,
        signal: never(),
        keep: () => Promise.reject(new Error("there is nothing to keep")),
        ...given,
      };
    },
    [Symbol.asyncDispose]: () => fake[Symbol.asyncDispose](),
  };
}

/** What is in a secret under this name. */
export function revealed(secret: Readonly<Record<string, unknown>>, name: string): string {
  const value = secret[name];
  if (!(value instanceof Secret)) throw new Error(`${name} is no secret`);
  return value.reveal();
}
