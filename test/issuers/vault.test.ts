import { afterAll, beforeAll, describe } from "@jest/globals";
import { vault } from "../../src/issuers/vault.ts";
import { itIsAnIssuer } from "./conformance.ts";
import { fakeTarget, other, realTarget, reporting, type VaultTarget } from "./vault-target.ts";

const { VAULT_ADDR: address = "", VAULT_TOKEN: token = "" } = process.env;

const servers: readonly { readonly name: string; start(): Promise<VaultTarget> }[] = [
  { name: "contract fake", start: fakeTarget },
  ...(address === "" ? [] : [{ name: `server at ${address}`, start: () => realTarget(address, token) }]),
];

describe.each(servers)("Vault: $name", ({ start }) => {
  let target: VaultTarget;
  beforeAll(async () => {
    target = await start();
  });
  afterAll(async () => {
    await target[Symbol.asyncDispose]();
  });

  itIsAnIssuer({
    issuer: vault,
    config: () => target.config,
    access: () => [reporting],
    forbidden: () => [reporting, { ...other, policies: ["not-allowed"] }],
    works: (secret) => target.works(secret),
    endsAt: (_secret, handle) => target.endsAt(handle),
    unreachable: () => ({ ...target.config, url: "http://127.0.0.1:1" }),
    refused: () => ({ ...target.config, login_secret: "00000000-0000-0000-0000-000000000000" }),
    // The child token's display name is no key: two of one name are two.
    namesAreShared: true,
  });
});
