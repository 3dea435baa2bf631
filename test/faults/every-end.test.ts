import { describe, expect, test } from "@jest/globals";
import { everyEnd, expectedEnds } from "./every-end.ts";

describe("every kind of credential ends in every way as it does with any queue (reliability F8)", () => {
  test("with the queue on Postgres", async () => {
    const { ends, tables } = await everyEnd({});
    expect(ends).toEqual(expectedEnds());
    expect(tables).toBeGreaterThan(0);
  }, 300_000);

  test("without a queue", async () => {
    const { ends, tables } = await everyEnd({ MAYFLY_QUEUE: "none" });
    expect(ends).toEqual(expectedEnds());
    expect(tables).toBe(0);
  }, 300_000);
});
