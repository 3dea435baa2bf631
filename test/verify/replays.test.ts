import { expect, test } from "@jest/globals";
import { createReplayStore, TooManyProofs } from "../../src/verify/replays.ts";

const T0 = 1_800_000_000_000;

test("a proof is new once until it ends, and another one beside it", () => {
  let now = T0;
  const store = createReplayStore(() => now);
  expect(store.consume("a", T0 + 65_000)).toBe(true);
  expect(store.consume("b", T0 + 65_000)).toBe(true);
  expect(store.consume("a", T0 + 65_000)).toBe(false);
  now = T0 + 65_000;
  expect(store.consume("a", T0 + 65_000)).toBe(false);
});

test("a full store refuses, rather than forget a proof that could be used again; room comes back with time", () => {
  let now = T0;
  const store = createReplayStore(() => now, 100);
  for (let index = 0; index < 100; index += 1) store.consume(`p${index}`, T0 + 1000 * (index % 50));
  expect(() => store.consume("one more", T0 + 60_000)).toThrow(TooManyProofs);
  expect(store.consume("p99", T0 + 49_000)).toBe(false);
  now = T0 + 10_000;
  for (let index = 0; index < 20; index += 1) expect(store.consume(`q${index}`, T0 + 60_000)).toBe(true);
  expect(() => store.consume("one more", T0 + 60_000)).toThrow(TooManyProofs);
  expect(store.consume("p99", T0 + 49_000)).toBe(false);
});
