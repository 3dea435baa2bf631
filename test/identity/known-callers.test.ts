import { beforeAll, describe, expect, test } from "@jest/globals";
import { type CryptoKey, generateKeyPair } from "jose";
import type { KeyAnswer } from "../../src/identity/key-set.ts";
import { createKnownCallers, type KnownCaller } from "../../src/identity/known-callers.ts";
import type { Principal } from "../../src/identity/principal.ts";
import { refuse } from "../../src/identity/refusal.ts";

let key: CryptoKey;
let another: CryptoKey;
beforeAll(async () => {
  [key, another] = [(await generateKeyPair("ES256")).publicKey, (await generateKeyPair("ES256")).publicKey];
});

const principal = { subject: "agt_1", generation: 7 } as unknown as Principal;
const caller = (changes: Partial<KnownCaller> = {}): KnownCaller => ({
  principal,
  key,
  findKey: () => ({ keys: [key] }),
  untilMs: 1_000,
  ...changes,
});

describe("a caller is remembered by its token", () => {
  test("until the token ends, and not a moment longer", async () => {
    const callers = createKnownCallers();
    callers.remember("token", caller());
    expect(await callers.find("token", 999)).toBe(principal);
    expect(await callers.find("token", 1_000)).toBeUndefined();
    expect(await callers.find("token", 999)).toBeUndefined();
  });

  test.each<[string, () => KeyAnswer]>([
    ["has another key under the same name", () => ({ keys: [another] })],
    ["has no such key any more", () => ({ refusal: refuse("token_key_unknown", "no key") })],
    ["could not be read again for too long", () => ({ refusal: refuse("keys_stale", "stale") })],
  ])("not when the trust source %s", async (_what, now) => {
    const callers = createKnownCallers();
    let answer: KeyAnswer = { keys: [another, key] };
    callers.remember("token", caller({ findKey: async () => answer }));
    expect(await callers.find("token", 0)).toBe(principal);
    answer = now();
    expect(await callers.find("token", 0)).toBeUndefined();
  });

  test("by that token alone, and the text of it is not kept (invariant 11)", async () => {
    const callers = createKnownCallers();
    callers.remember("token-1", caller());
    expect(await callers.find("token-2", 0)).toBeUndefined();
    expect(await callers.find("token-1 ", 0)).toBeUndefined();
  });

  test("of many, those remembered first are forgotten first", async () => {
    const callers = createKnownCallers();
    for (let number = 0; number <= 5_000; number += 1) callers.remember(`token-${number}`, caller());
    expect(await callers.find("token-0", 0)).toBeUndefined();
    expect(await callers.find("token-1", 0)).toBe(principal);
    expect(await callers.find("token-5000", 0)).toBe(principal);
  });
});
