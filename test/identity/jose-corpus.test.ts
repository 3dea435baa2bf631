import { describe, expect, test } from "@jest/globals";
import type { FindKeys } from "../../src/identity/key-set.ts";
import { peekToken, verifyToken } from "../../src/identity/verify-token.ts";
import { audience, finderOf, keySetSource, now, token } from "./fixtures.ts";
import { forge, ourWords, stillWorld, textsOf } from "./forge.ts";
import { corpus, least } from "./jose-corpus.ts";

const source = keySetSource();
const still = forge(stillWorld);
const classes = Object.entries(corpus).map(([name, casesOf]) => [name, casesOf(still)] as const);

describe.each(classes)("malicious JOSE: %s", (_class, cases) => {
  test.each([...cases])("%s", async (_name, compact, code) => {
    const find = await finderOf(source);
    let asked = 0;
    const counting: FindKeys = (kid, alg) => {
      asked += 1;
      return find(kid, alg);
    };
    const started = process.cpuUsage();
    const result = await verifyToken(compact, source, { audience, keys: counting, now });
    // CPU time, not the clock on the wall: the machine is shared.
    const { user, system } = process.cpuUsage(started);
    expect(user + system).toBeLessThan(250_000);
    if (result.ok) throw new Error("accepted");
    expect(result.refusal.code).toBe(code);
    expect(asked).toBe(["token_key_unknown", "token_signature_invalid"].includes(code) ? 1 : 0);
    for (const text of textsOf(compact, [...ourWords, audience, ...source.algorithms]))
      expect(result.refusal.detail).not.toContain(text);
    expect(() => peekToken(compact)).not.toThrow();
  });
});

test("the corpus has at least 150 different cases, and each class as many as it must have", () => {
  const all = classes.flatMap(([, cases]) => cases);
  expect(new Set(all.map(([, compact]) => compact)).size).toBeGreaterThanOrEqual(150);
  for (const [, cases] of classes) expect(new Set(cases.map(([name]) => name)).size).toBe(cases.length);
  const counts = Object.fromEntries(classes.map(([name, cases]) => [name, cases.length]));
  expect(Object.entries(least).filter(([name, count]) => (counts[name] ?? 0) < count)).toEqual([]);
  expect(Object.values(least).reduce((sum, count) => sum + count, 0)).toBeGreaterThanOrEqual(150);
});

test("the corpus is built on a token that is accepted: what is refused is refused for its flaw", async () => {
  for (const good of [token(), still.token()])
    await expect(verifyToken(good, source, { audience, keys: await finderOf(source), now })).resolves.toMatchObject({
      ok: true,
    });
});
