import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { parseStrictJson, StrictJsonError, type StrictJsonProblem } from "../../src/lib/strict-json.ts";

function refusalOf(text: string, limits?: { maxDepth: number; maxMembers: number }): StrictJsonError {
  try {
    parseStrictJson(text, limits);
  } catch (error) {
    if (error instanceof StrictJsonError) return error;
    throw error;
  }
  throw new Error("the text was accepted");
}

const nested = (depth: number, open = "[", close = "]"): string => open.repeat(depth) + close.repeat(depth);
const wide = (members: number): string => `{${Array.from({ length: members }, (_, i) => `"m${i}":0`).join(",")}}`;

describe("a strict JSON text is read as every parser reads it", () => {
  test.each<[name: string, text: string, value: unknown]>([
    [
      "a mint request",
      '{"task_id":"tsk_1","actions":["read"],"ttl_seconds":300}',
      { task_id: "tsk_1", actions: ["read"], ttl_seconds: 300 },
    ],
    ["a scalar", '"x"', "x"],
    [
      "equal names in different objects",
      '{"a":{"x":1},"b":{"x":2},"c":[{"x":3},{"x":4}]}',
      { a: { x: 1 }, b: { x: 2 }, c: [{ x: 3 }, { x: 4 }] },
    ],
    ["a string that looks like members", String.raw`{"a":"\"b\":1,\"b\":2","c":"x:y"}`, { a: '"b":1,"b":2', c: "x:y" }],
    ["an escaped quote before a colon", String.raw`{"a":"x\":y"}`, { a: 'x":y' }],
    ["an escaped backslash at the end of a name", String.raw`{"a\\":":"}`, { "a\\": ":" }],
    ["backslashes before a closing quote", String.raw`{"a\\":"\\\\","b":"\\\""}`, { "a\\": "\\\\", b: '\\"' }],
    ["white space of every kind around a colon", '{"a" \t\r\n:\n1}', { a: 1 }],
    ["a whole surrogate pair, escaped", String.raw`{"a":"\ud83e\udeb0"}`, { a: "🪰" }],
    ["a whole surrogate pair, plain", '{"a":"🪰"}', { a: "🪰" }],
    ["an escaped backslash before u0000", String.raw`{"a":"\\u0000"}`, { a: "\\u0000" }],
    [
      "names that only resemble forbidden ones",
      '{"__proto":1,"Constructor":2,"proto_type":3}',
      { __proto: 1, Constructor: 2, proto_type: 3 },
    ],
    ["forbidden names as values", '{"a":"__proto__","b":["constructor"]}', { a: "__proto__", b: ["constructor"] }],
    ["ten levels", nested(10), JSON.parse(nested(10))],
    ["five hundred members", wide(500), JSON.parse(wide(500))],
    ["the empty name, once", '{"":1}', { "": 1 }],
    ["the largest double", "[1.7976931348623157e308]", [1.7976931348623157e308]],
  ])("%s", (_name, text, value) => {
    expect(parseStrictJson(text)).toEqual(value);
  });
});

describe("a text that parsers disagree about is refused, with a pointer to the place", () => {
  test.each<[name: string, text: string, problem: StrictJsonProblem, pointer: string]>([
    ["a name twice", '{"a":1,"a":2}', "duplicate_member", "/a"],
    ["a name twice with equal values", '{"a":1,"a":1}', "duplicate_member", "/a"],
    ["a name twice, once escaped", String.raw`{"exp":1,"e\u0078p":2}`, "duplicate_member", "/exp"],
    ["a name twice, after an escaped quote", String.raw`{"b":"\"","a":1,"a":2}`, "duplicate_member", "/a"],
    ["a name twice, after an escaped backslash", String.raw`{"b":"\\","a":1,"a":2}`, "duplicate_member", "/a"],
    ["a name twice, deep in arrays", '{"x":[0,{"y":[{"a":1,"b":2,"a":3}]}]}', "duplicate_member", "/x/1/y/0/a"],
    ["three times", '{"a":1,"a":2,"a":3}', "duplicate_member", "/a"],
    ["the empty name twice", '{"":1,"":2}', "duplicate_member", "/"],
    ["a dropped value that is deep itself", `{"a":${nested(200_000)},"a":1}`, "too_deep", "/a/0/0/0/0/0/0/0/0/0"],
    ["a dropped value with members", '{"a":{"b":1,"c":2},"a":{"b":1}}', "duplicate_member", "/a"],
    ["a name with a slash and a tilde twice", '{"a/b~c":1,"a/b~c":2}', "duplicate_member", "/a~1b~0c"],
    ["an integer-like name twice", '{"1":1,"0":2,"1":3}', "duplicate_member", "/1"],
    ["__proto__", '{"__proto__":{"admin":true}}', "forbidden_member", "/__proto__"],
    ["__proto__, escaped", String.raw`{"\u005f_proto__":1}`, "forbidden_member", "/__proto__"],
    ["__proto__, nested", '{"a":[{"__proto__":1}]}', "forbidden_member", "/a/0/__proto__"],
    ["constructor", '{"constructor":{"prototype":{}}}', "forbidden_member", "/constructor"],
    ["prototype", '{"a":{"prototype":1}}', "forbidden_member", "/a/prototype"],
    ["eleven levels of arrays", nested(11), "too_deep", "/0/0/0/0/0/0/0/0/0/0"],
    ["eleven levels of objects", `${'{"a":'.repeat(11)}1${"}".repeat(11)}`, "too_deep", "/a/a/a/a/a/a/a/a/a/a"],
    ["100,000 levels", nested(100_000), "too_deep", "/0/0/0/0/0/0/0/0/0/0"],
    ["501 members", wide(501), "too_many_members", "/m500"],
    ["100,000 members", wide(100_000), "too_many_members", "/m500"],
    ["501 elements", `[${Array.from({ length: 501 }, () => 0).join(",")}]`, "too_many_members", "/500"],
    [
      "members and elements together",
      `{"a":[${Array.from({ length: 500 }, () => 0).join(",")}]}`,
      "too_many_members",
      "/a/499",
    ],
    ["NUL in a value", String.raw`{"a":"x\u0000y"}`, "nul", "/a"],
    ["NUL in a name", String.raw`{"x\u0000":1}`, "nul", "/x\u0000"],
    ["NUL in an element", String.raw`["ok","\u0000"]`, "nul", "/1"],
    ["half a surrogate pair", String.raw`{"a":"\ud83e"}`, "lone_surrogate", "/a"],
    ["a pair the wrong way round", String.raw`{"a":"\udeb0\ud83e"}`, "lone_surrogate", "/a"],
    ["half a pair in a name", String.raw`{"\udeb0":1}`, "lone_surrogate", "/\udeb0"],
    ["half a pair, not escaped", '{"a":["\ud83e"]}', "lone_surrogate", "/a/0"],
    ["a number beyond a double", '{"a":1e999}', "number_out_of_range", "/a"],
    ["a negative one, nested", '{"a":[0,-1e999]}', "number_out_of_range", "/a/1"],
    ["a byte order mark", '\ufeff{"a":1}', "byte_order_mark", ""],
    ["nothing", "", "syntax", ""],
    ["a trailing comma", '{"a":1,}', "syntax", ""],
    ["two values", "{}{}", "syntax", ""],
    ["a comment", "{/**/}", "syntax", ""],
    ["single quotes", "{'a':1}", "syntax", ""],
    ["NaN", "[NaN]", "syntax", ""],
    ["a raw NUL", '{"a":"\0"}', "syntax", ""],
    ["a leading zero", "[01]", "syntax", ""],
    ["a byte order mark inside", '{"a":\ufeff1}', "syntax", ""],
  ])("%s", (_name, text, problem, pointer) => {
    expect(refusalOf(text)).toMatchObject({ problem, pointer });
  });

  test("the error says what is wrong without quoting the text", () => {
    for (const text of ['{"s3cret":1,"s3cret":2}', '{"a":"s3cret"', '{"s3cret":{"__proto__":1}}']) {
      const { message, cause, stack } = refusalOf(text);
      expect([message, cause, stack].join(" ")).not.toContain("s3cret");
    }
  });

  test("limits are the caller's", () => {
    expect(refusalOf("[[]]", { maxDepth: 1, maxMembers: 9 }).problem).toBe("too_deep");
    expect(refusalOf("[1,2]", { maxDepth: 9, maxMembers: 1 }).problem).toBe("too_many_members");
    expect(parseStrictJson("[1,2]", { maxDepth: 1, maxMembers: 2 })).toEqual([1, 2]);
  });

  test("a refused text never reaches a prototype", () => {
    expect(() => parseStrictJson('{"__proto__":{"polluted":1}}')).toThrow(StrictJsonError);
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  });

  test("many backslashes before quotes cost linear time", () => {
    const text = JSON.stringify({ a: '\\"'.repeat(100_000), b: "\\".repeat(200_000) });
    expect(parseStrictJson(text)).toEqual(JSON.parse(text));
  });
});

/** JSON as a list of entries, so that a name can be there twice. */
type Tree =
  | { readonly object: readonly (readonly [string, Tree])[] }
  | { readonly array: readonly Tree[] }
  | { readonly text: string };

const names = fc.constantFrom("a", "b", "a:b", 'q"', "\\", "é", "__proto__", "x", "y", "z", "0");
const { tree } = fc.letrec<{ tree: Tree }>((tie) => ({
  tree: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.oneof(fc.string(), fc.constantFrom('":', "\\", '\\":"')).map((text): Tree => ({ text })),
    fc.array(fc.tuple(names, tie("tree")), { maxLength: 4 }).map((object): Tree => ({ object })),
    fc.array(tie("tree"), { maxLength: 4 }).map((array): Tree => ({ array })),
  ),
}));

/** Writes a tree with white space and escapes chosen by `dice`. */
function write(node: Tree, dice: () => number): string {
  const space = () => ["", "", " ", "\n", "\t \r"][dice() % 5] ?? "";
  const string = (text: string) =>
    dice() % 3 === 0 && text !== ""
      ? `"${[...text].map((c) => [...Array(c.length).keys()].map((i) => `\\u${c.charCodeAt(i).toString(16).padStart(4, "0")}`).join("")).join("")}"`
      : JSON.stringify(text);
  if ("text" in node) return string(node.text);
  if ("array" in node) return `[${space()}${node.array.map((n) => write(n, dice) + space()).join(`,${space()}`)}]`;
  return `{${space()}${node.object.map(([name, n]) => `${string(name)}${space()}:${space()}${write(n, dice)}`).join(`,${space()}`)}${space()}}`;
}

/** The specification, on the tree: independent of both scans. */
function isStrict(node: Tree): boolean {
  if ("text" in node) return !node.text.includes("\0") && !/\p{Surrogate}/u.test(node.text);
  if ("array" in node) return node.array.every(isStrict);
  const all = node.object.map(([name]) => name);
  return new Set(all).size === all.length && !all.includes("__proto__") && node.object.every(([, n]) => isStrict(n));
}

function depthOf(node: Tree): number {
  if ("text" in node) return 0;
  return 1 + Math.max(0, ...("array" in node ? node.array : node.object.map(([, n]) => n)).map(depthOf));
}

test("whatever the spelling: accepted exactly when no name is double, and then as JSON.parse reads it", () => {
  fc.assert(
    fc.property(tree, fc.infiniteStream(fc.nat(1000)), (node, stream) => {
      const text = write(node, () => stream.next().value as number);
      if (isStrict(node) && depthOf(node) <= 10) expect(parseStrictJson(text)).toEqual(JSON.parse(text));
      else expect(refusalOf(text).problem).not.toBe("syntax");
    }),
    { numRuns: 2000 },
  );
});

test("any text at all is either read as JSON.parse reads it or refused with a StrictJsonError", () => {
  fc.assert(
    fc.property(fc.oneof(fc.string({ unit: "binary" }), fc.json()), (text) => {
      let value: unknown;
      try {
        value = parseStrictJson(text);
      } catch (error) {
        expect(error).toBeInstanceOf(StrictJsonError);
        return;
      }
      expect(value).toEqual(JSON.parse(text));
    }),
    { numRuns: 2000 },
  );
});
