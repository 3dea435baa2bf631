import { readFile } from "node:fs/promises";
import { expect, test } from "@jest/globals";

class Ours extends Error {}

test("an error of Node's own modules is an Error in a test as it is in production, and no class of ours", async () => {
  const error: unknown = await readFile("/nowhere").catch((caught: unknown) => caught);
  expect(error instanceof Error).toBe(true);
  expect(error instanceof TypeError).toBe(false);
  expect(error instanceof Ours).toBe(false);
  const wrong: unknown = await fetch("nonsense").catch((caught: unknown) => caught);
  expect(wrong instanceof TypeError).toBe(true);
  expect(new Ours() instanceof Ours).toBe(true);
  expect({ name: "Error", message: "" } instanceof Error).toBe(false);
});
