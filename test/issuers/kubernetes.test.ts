import { afterAll, beforeAll } from "@jest/globals";
import { kubernetes } from "../../src/issuers/kubernetes.ts";
import { itIsAnIssuer } from "./conformance.ts";
import { deploying, type KubernetesTarget, kubernetesTarget, reporting, revealed } from "./kubernetes-target.ts";

let target: KubernetesTarget;
beforeAll(async () => {
  target = await kubernetesTarget();
});
afterAll(async () => {
  await target[Symbol.asyncDispose]();
});

itIsAnIssuer({
  issuer: kubernetes,
  config: () => target.config,
  access: () => [reporting],
  forbidden: () => [deploying, { service_account: "powerful" }],
  works: async (secret) => target.fake.authenticates(revealed(secret, "token")),
  endsAt: async (secret) => new Date(target.fake.tokens.get(revealed(secret, "token"))?.expiresAt ?? 0),
  unreachable: () => ({ ...target.config, url: "http://127.0.0.1:1" }),
  refused: () => ({ ...target.config, token: "e30.another.e30" }),
});
