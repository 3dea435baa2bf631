import { describe, expect, test } from "@jest/globals";
import type { FindKeys } from "../../src/identity/key-set.ts";
import { peekToken, verifyToken } from "../../src/identity/verify-token.ts";
import { audience, finderOf, keySetSource, now, token } from "./fixtures.ts";
import { corpus } from "./jose-corpus.ts";

const source = keySetSource();

describe.each(Object.entries(corpus))("malicious JOSE: %s", (_class, cases) => {
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
    for (const text of textsOf(compact)) expect(result.refusal.detail).not.toContain(text);
    expect(() => peekToken(compact)).not.toThrow();
  });
});

test("the corpus has at least 150 cases, each with a name of its own in its class", () => {
  const all = Object.values(corpus);
  expect(all.reduce((count, cases) => count + cases.length, 0)).toBeGreaterThanOrEqual(150);
  for (const cases of all) expect(new Set(cases.map(([name]) => name)).size).toBe(cases.length);
});

test("the corpus is built on a token that is accepted: what is refused is refused for its flaw", async () => {
  await expect(verifyToken(token(), source, { audience, keys: await finderOf(source), now })).resolves.toMatchObject({
    ok: true,
  });
});

/** Every text of a token that a careless message could repeat: its parts, and the strings inside them. */
function textsOf(compact: string): string[] {
  const parts = compact.length > 10_000 ? [] : compact.split(".").filter((part) => part.length >= 6);
  const inside = parts.flatMap((part) =>
    [
      ...Buffer.from(part, "base64url")
        .toString("latin1")
        .matchAll(/"([^"]{6,})"/g),
    ].map((match) => match[1] ?? ""),
  );
  const ours = [
    "token",
    "header",
    "payload",
    audience,
    "claims",
    "status_list",
    "token_introspection",
    "authorization_details",
    "events",
    "may_act",
    ...source.algorithms,
  ];
  return [...parts, ...inside].filter((text) => !ours.includes(text) && !audience.includes(text));
}
