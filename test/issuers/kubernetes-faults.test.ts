import { afterAll, beforeAll, describe } from "@jest/globals";
import { kubernetes } from "../../src/issuers/kubernetes.ts";
import { itSurvivesFaults } from "./faults.ts";
import { type KubernetesTarget, kubernetesTarget, reporting, revealed } from "./kubernetes-target.ts";

describe("Kubernetes", () => {
  let target: KubernetesTarget;
  beforeAll(async () => {
    target = await kubernetesTarget();
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  itSurvivesFaults({
    issuer: kubernetes,
    farSide: () => target.fake.url,
    config: (url) => ({ ...target.config, url }),
    access: () => [reporting],
    works: async (secret) => target.fake.authenticates(revealed(secret, "token")),
    alive: () => [...target.fake.tokens.keys()].filter((token) => target.fake.authenticates(token)).length,
  });
});
