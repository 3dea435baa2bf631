import { describe, expect, test } from "@jest/globals";
import { createFailedAuthLimit } from "../../src/http/failed-auth-limit.ts";

function limitAt() {
  let seconds = 0;
  const limit = createFailedAuthLimit(() => seconds);
  return {
    take: (address: string) => limit.take(address),
    advance: (by: number) => {
      seconds += by;
    },
    exhaust(address: string) {
      for (let index = 0; index < 30; index += 1) limit.take(address);
    },
  };
}

describe("failed authentications by address", () => {
  test("thirty at once are taken, the next waits two seconds for its turn", () => {
    const limit = limitAt();
    for (let index = 0; index < 30; index += 1) expect(limit.take("192.0.2.1")).toBe(0);
    expect(limit.take("192.0.2.1")).toBe(2);
    limit.advance(1);
    expect(limit.take("192.0.2.1")).toBe(1);
    limit.advance(1);
    expect(limit.take("192.0.2.1")).toBe(0);
    expect(limit.take("192.0.2.1")).toBe(2);
  });

  test("time fills the bucket, and no further than thirty", () => {
    const limit = limitAt();
    limit.exhaust("192.0.2.1");
    limit.advance(1_000_000);
    limit.exhaust("192.0.2.1");
    expect(limit.take("192.0.2.1")).toBeGreaterThan(0);
  });

  test("one address does not spend another's", () => {
    const limit = limitAt();
    limit.exhaust("192.0.2.1");
    expect(limit.take("192.0.2.2")).toBe(0);
  });

  test.each([
    ["192.0.2.1", "::ffff:192.0.2.1"],
    ["2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"],
    ["2001:db8::1", "2001:0db8:0:0:1::"],
    ["fe80::1%eth0", "fe80::2%eth1"],
    ["::1", "::2"],
  ])("%s and %s are one caller", (one, other) => {
    const limit = limitAt();
    limit.exhaust(one);
    expect(limit.take(other)).toBeGreaterThan(0);
  });

  test.each([
    ["2001:db8:1:2::1", "2001:db8:1:3::1"],
    ["2001:db8::1", "2001:db9::1"],
    ["192.0.2.1", "2001:db8::1"],
  ])("%s and %s are two", (one, other) => {
    const limit = limitAt();
    limit.exhaust(one);
    expect(limit.take(other)).toBe(0);
  });

  test("remembers ten thousand addresses and forgets the one that failed longest ago", () => {
    const limit = limitAt();
    limit.exhaust("192.0.2.1");
    limit.exhaust("192.0.2.2");
    for (let index = 0; index < 9_998; index += 1) limit.take(`10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`);
    expect(limit.take("192.0.2.1")).toBeGreaterThan(0);
    limit.take("198.51.100.1");
    expect(limit.take("192.0.2.1")).toBeGreaterThan(0);
    expect(limit.take("192.0.2.2")).toBe(0);
  });
});
