import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { vault } from "../../src/issuers/vault.ts";
import { failure, never } from "./conformance.ts";
import { documentedPolicy, type FakeVaultTarget, fakeTarget, other, reporting } from "./vault-target.ts";

let target: FakeVaultTarget;
beforeEach(async () => {
  target = await fakeTarget();
});
afterEach(async () => {
  await target[Symbol.asyncDispose]();
});

describe("an inspection", () => {
  const inspect = async (access = [reporting], changes = {}): Promise<unknown> => {
    await using client = await vault.connect({ ...target.config, ...changes });
    return await failure(vault.inspect?.(client, access, never()) ?? Promise.resolve());
  };

  test("misses each line of the documented policy, and says which", async () => {
    const policy = await documentedPolicy();
    expect(policy.length).toBe(6);
    for (const line of policy) {
      target.fake.policies.set(
        "mayfly",
        policy.filter((one) => one !== line),
      );
      expect(await inspect()).toMatchObject({
        code: "target_refused",
        detail: `the broker's policy lacks: path "${line[0]}" { capabilities = ["${line[1][0]}"] }`,
      });
    }
  });

  test.each([
    ["is missing", undefined, "there is no token role mayfly: vault write auth/token/roles/mayfly orphan=true"],
    ["does not allow a policy", { allowed_policies: [] }, "does not allow reporting-read"],
    ["allows policies by pattern", { allowed_policies_glob: ["*"] }, "by pattern"],
    ["makes children of the broker's token", { orphan: false }, "would end with the broker's own"],
    ["makes batch tokens", { token_type: "batch" }, "cannot be taken back"],
    ["limits uses", { token_num_uses: 1 }, "token_num_uses=0"],
    ["makes periodic tokens", { token_period: 60 }, "token_period=0"],
  ])("refuses a token role that %s, with the command", async (_what, changes, detail) => {
    const role = target.fake.roles.get("mayfly");
    if (role === undefined) throw new Error("no role");
    if (changes === undefined) target.fake.roles.clear();
    else target.fake.roles.set("mayfly", { ...role, ...changes });
    const error = await inspect();
    expect(error).toMatchObject({ code: "target_refused", detail: expect.stringContaining(detail) });
    expect(error).toMatchObject({ detail: expect.stringContaining("vault write auth/token/roles/mayfly") });
  });

  test("refuses a broker that is root, or reaches an engine itself", async () => {
    target.fake.policies.set("default", [...(target.fake.policies.get("default") ?? []), ["database/*", ["read"]]]);
    expect(await inspect([other, reporting])).toMatchObject({
      code: "target_refused",
      detail: "the broker's own policy must not reach database/creds/other: that is for child tokens",
    });
    target.fake.intercept = ({ path, data }, response) => {
      if (path !== "sys/capabilities-self") return false;
      response.end(
        JSON.stringify({ data: Object.fromEntries((data["paths"] as string[]).map((one) => [one, ["root"]])) }),
      );
      return true;
    };
    expect(await inspect()).toMatchObject({ detail: expect.stringContaining("must not log in as root") });
  });

  test("says what is missing when it may not even ask", async () => {
    target.fake.policies.set("default", []);
    expect(await inspect()).toMatchObject({
      code: "target_refused",
      detail: `the broker's policy lacks: path "sys/capabilities-self" { capabilities = ["update"] }`,
    });
  });

  test("refuses a read where nothing can be taken back", async () => {
    expect(await inspect([reporting], { engine_revocable: false })).toMatchObject({
      code: "target_refused",
      detail: expect.stringContaining("must be written"),
    });
  });
});
