import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { canonicalHash, canonicalJson, constantOf } from "../../src/lib/canonical-json.ts";

describe("equal meaning, equal text (RFC 8785)", () => {
  test("whatever the order of members, at any depth", () => {
    const shuffled = (value: unknown): unknown => {
      if (Array.isArray(value)) return value.map(shuffled);
      if (typeof value !== "object" || value === null) return value;
      return Object.fromEntries(
        Object.entries(value)
          .toReversed()
          .map(([name, member]) => [name, shuffled(member)]),
      );
    };
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(canonicalJson(shuffled(value))).toBe(canonicalJson(value));
        expect(JSON.parse(canonicalJson(value))).toEqual(JSON.parse(JSON.stringify(value)));
      }),
    );
  });

  test("members stand by UTF-16 code units, also those that look like numbers", () => {
    expect(canonicalJson({ 10: "x", 9: "y", "\u20ac": 1, a: { c: 1, b: [true, null] } })).toBe(
      '{"10":"x","9":"y","a":{"b":[true,null],"c":1},"€":1}',
    );
  });
});

describe("a part that is made once", () => {
  test("has the text that it would have if it were made each time, and cannot change afterwards", () => {
    const source = { name: "tickets", groups: ["b", "a"] };
    const make = ({ name, groups }: typeof source) => ({ groups: [...groups], name });
    const part = constantOf(source, make);
    expect(constantOf(source, make)).toBe(part);
    expect(canonicalHash({ z: 1, part })).toBe(canonicalHash({ part: make(source), z: 1 }));
    expect(() => part.groups.push("c")).toThrow(TypeError);
    expect(() => Object.assign(part, { name: "other" })).toThrow(TypeError);
  });
});
