import { randomBytes } from "node:crypto";
import { inflateSync } from "node:zlib";
import { describe, expect, test } from "@jest/globals";
import { StatusList } from "@sd-jwt/jwt-status-list";
import { LIST_SIZE, permuted } from "../../src/status/permute.ts";
import { listOf, setStatus } from "../../src/status/status-list.ts";

const inflated = (lst: string): Buffer => inflateSync(Buffer.from(lst, "base64url"));

/** Appendix "Test vectors for Status List encoding" of draft-ietf-oauth-status-list: 2^20 entries of one bit. */
const LONG_ONE_BIT =
  "eNrt3AENwCAMAEGogklACtKQPg9LugC9k_ACvreiogEAAKkeCQAAAAAAAAAAAAAAAAAAAIBylgQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAXG9IAAAAAAAAAPwsJAAAAAAAAAAAAAAAvhsSAAAAAAAAAAAA7KpLAAAAAAAAAAAAAAAAAAAAAJsLCQAAAAAAAAAAADjelAAAAAAAAAAAKjDMAQAAAACAZC8L2AEb";
const LONG_ONE_BIT_INVALID = [0, 1993, 25460, 159495, 495669, 554353, 645645, 723232, 854545, 934534, 1000345];

describe("a list is packed as the draft packs it", () => {
  test("its short vectors, of one and of two bits", () => {
    const pack = (bits: 1 | 2, statuses: readonly number[]) => {
      const list = Buffer.alloc((statuses.length * bits) / 8);
      for (const status of [1, 2, 3])
        setStatus(
          list,
          bits,
          [...statuses.keys()].filter((place) => statuses[place] === status),
          status,
        );
      return list;
    };
    const one = pack(1, [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]);
    const two = pack(2, [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]);
    expect([one.toString("hex"), two.toString("hex")]).toEqual(["b9a3", "c944f9"]);
    expect([inflated("eNrbuRgAAhcBXQ"), inflated("eNo76fITAAPfAgc")]).toEqual([one, two]);
  });

  test("its vector of 2^20 entries: byte for byte, once inflated", async () => {
    const ours = inflated(await listOf(LONG_ONE_BIT_INVALID));
    expect(ours).toHaveLength(LIST_SIZE / 8);
    expect(ours.equals(inflated(LONG_ONE_BIT))).toBe(true);
  });

  test("and an implementation that is not ours reads what we meant", async () => {
    const invalid = new Set(Array.from({ length: 1000 }, () => randomBytes(3).readUIntBE(0, 3) % LIST_SIZE));
    const theirs = StatusList.decompressStatusList(await listOf(invalid), 1);
    const found = [];
    for (let index = 0; index < LIST_SIZE; index += 1) if (theirs.getStatus(index) === 1) found.push(index);
    expect(found).toEqual([...invalid].sort((a, b) => a - b));
  });
});

describe("the order of places", () => {
  test("gives each of the 2^20 places exactly once", () => {
    const places = permuted(randomBytes(16), 0, LIST_SIZE);
    const taken = new Uint8Array(LIST_SIZE);
    for (const place of places) taken[place] = (taken[place] ?? 0) + 1;
    expect(places.length).toBe(LIST_SIZE);
    expect(taken.every((times) => times === 1)).toBe(true);
  });

  test("is the same however the counts are leased, and another one under another seed", () => {
    const seed = randomBytes(16);
    const [all, parts] = [permuted(seed, 0, 1024), [...permuted(seed, 0, 512), ...permuted(seed, 512, 512)]];
    expect([...all]).toEqual(parts);
    expect([...permuted(randomBytes(16), 0, 1024)]).not.toEqual(parts);
  });

  test("tells nothing about the count: neighbours are spread over the whole list", () => {
    const places = permuted(randomBytes(16), 0, 4096);
    // Each sixteenth of the list gets its share; all of it were in one if a round were missing.
    const shares = Array.from({ length: 16 }, () => 0);
    for (const place of places) shares[Math.floor((place / LIST_SIZE) * 16)]! += 1;
    for (const share of shares) expect(share).toBeGreaterThan(128);
    // Runs of neighbours that stay neighbours are as rare as chance has them (about 0.004 of 4,095 pairs).
    const near = places.filter((place, index) => Math.abs(place - (places[index - 1] ?? -LIST_SIZE)) <= 1).length;
    expect(near).toBeLessThan(5);
  });
});
