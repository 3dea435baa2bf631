import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { readMountedToken } from "../../src/issuers/target-origin.ts";
import { openVault, type VaultLane } from "../../src/issuers/vault-client.ts";
import { failure, never } from "./conformance.ts";
import { type FakeVaultTarget, fakeTarget } from "./vault-target.ts";

let target: FakeVaultTarget;
let lane: VaultLane;
beforeEach(async () => {
  target = await fakeTarget();
  lane = openVault(target.config);
});
afterEach(async () => {
  await lane[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
});

const look = () => lane.call({ method: "read", path: "auth/token/lookup-self" }, never());
const count = (path: string): number => target.fake.requests.filter((one) => one.path === path).length;

describe("the broker's own token", () => {
  test("is had once for calls that come together, and used again", async () => {
    await Promise.all([look(), look(), look()]);
    expect((await look()).ok).toBe(true);
    expect(count("auth/approle/login")).toBe(1);
  });

  test("is renewed before its end, and had anew when renewing gives too little", async () => {
    target.fake.loginTtl = 30;
    const { now } = performance;
    let skew = 0;
    performance.now = () => now.call(performance) + skew;
    const pass = (seconds: number): void => {
      skew += seconds * 1000;
      target.fake.advance(seconds);
    };
    try {
      await look();
      pass(21);
      await Promise.all([look(), look(), look()]);
      expect([count("auth/token/renew-self"), count("auth/approle/login")]).toEqual([1, 1]);
      pass(21);
      await look();
      expect([count("auth/token/renew-self"), count("auth/approle/login")]).toEqual([2, 1]);
      // 90 s after the log-in it ends for good; less and less is left to renew.
      pass(21);
      await look();
      pass(21);
      await look();
      expect(count("auth/approle/login")).toBe(2);
      // Slept through its end: renewing is not even tried.
      const renewals = count("auth/token/renew-self");
      pass(3600);
      expect((await look()).ok).toBe(true);
      expect([count("auth/token/renew-self"), count("auth/approle/login")]).toEqual([renewals, 3]);
    } finally {
      performance.now = now;
    }
  });

  test("that was revoked is had anew, once for all who were refused", async () => {
    await look();
    target.fake.tokens.clear();
    const answers = await Promise.all([look(), look(), look()]);
    expect([answers.map(({ ok }) => ok), count("auth/approle/login")]).toEqual([[true, true, true], 2]);
  });

  test("that may not do something is not tried for ever", async () => {
    const answer = await lane.call({ method: "read", path: "sys/raw/x" }, never());
    expect([answer.status, count("sys/raw/x"), count("auth/approle/login")]).toEqual([403, 2, 2]);
  });

  test("a log-in that failed is tried again by the next call", async () => {
    target.fake.sealed = true;
    expect(await failure(look())).toMatchObject({ code: "target_unavailable" });
    target.fake.sealed = false;
    expect((await look()).ok).toBe(true);
  });

  test("a mint that gives up does not take the log-in from those who wait with it", async () => {
    let go = (): void => undefined;
    const asked = new Promise<void>((arrived) => {
      target.fake.intercept = async ({ path }) => {
        if (path !== "auth/approle/login") return false;
        arrived();
        await new Promise<void>((resolve) => {
          go = resolve;
        });
        return false;
      };
    });
    const stop = new AbortController();
    const left = failure(lane.call({ method: "read", path: "auth/token/lookup-self" }, stop.signal));
    const stays = look();
    stop.abort();
    expect(await left).toMatchObject({ code: "target_unavailable" });
    await asked;
    go();
    expect((await stays).ok).toBe(true);
  });

  test.each(["kubernetes", "jwt"] as const)("is had with a JWT by %s", async (method) => {
    const login = { method, mount: method, role: "mayfly" };
    await using right = openVault({ ...target.config, login, login_secret: target.fake.jwt });
    const call = { method: "read", path: "auth/token/lookup-self" } as const;
    expect((await right.call(call, never())).ok).toBe(true);
    await using wrong = openVault({ ...target.config, login, login_secret: "e30.e30.e30" });
    expect(await failure(wrong.call(call, never()))).toMatchObject({ code: "target_rejected" });
    await using none = openVault({ ...target.config, login, login_secret: undefined });
    expect(await failure(none.call(call, never()))).toMatchObject({
      code: "target_rejected",
      detail: expect.stringContaining("/var/run/secrets/mayfly/127.0.0.1_"),
    });
  });

  test("no path leads anywhere but where it says", async () => {
    for (const path of ["a/../b", "a//b", "./a", ""])
      expect(await failure(lane.call({ method: "read", path }, never()))).toMatchObject({ code: "internal" });
    await lane.call({ method: "read", path: "a b/c?d#e%2e" }, never());
    expect(target.fake.requests.at(-1)?.path).toBe("a%20b/c%3Fd%23e%252e");
  });
});

describe("a mounted token", () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "mayfly-mounted-"));
  });
  afterEach(() => rm(directory, { recursive: true }));

  test.each([
    ["https://vault.example.com", "vault.example.com"],
    ["https://vault.example.com:8200", "vault.example.com_8200"],
    ["http://[::1]:8200", "__1_8200"],
  ])("for %s is read from %s, anew each time", async (origin, file) => {
    for (const token of ["e30.one.e30", "e30.two.e30"]) {
      await writeFile(join(directory, file), `${token}\n`);
      expect((await readMountedToken(origin, directory)).reveal()).toBe(token);
    }
  });

  test("is never another host's, nor something that is no token", async () => {
    await writeFile(join(directory, "vault.example.com"), "e30.one.e30");
    await writeFile(join(directory, "odd.example.com"), "two words");
    for (const host of ["vault.example.com:8200", "odd.example.com", "example.com"])
      expect(await failure(readMountedToken(`https://${host}`, directory))).toMatchObject({ code: "target_rejected" });
  });
});
