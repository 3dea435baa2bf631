import { afterAll, beforeAll, describe } from "@jest/globals";
import { vault } from "../../src/issuers/vault.ts";
import { itSurvivesFaults } from "./faults.ts";
import { type FakeVaultTarget, fakeTarget, reporting } from "./vault-target.ts";

describe("Vault", () => {
  let target: FakeVaultTarget;
  beforeAll(async () => {
    target = await fakeTarget();
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  itSurvivesFaults({
    issuer: vault,
    farSide: () => target.fake.url,
    config: (url) => ({ ...target.config, url }),
    access: () => [reporting],
    works: (secret) => target.works(secret),
    alive: () => target.fake.engines.users.size,
  });
});
