import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  type ClaimCondition,
  claimAt,
  claimConditionSchema,
  identifies,
  identifyingConditionsSchema,
  mappedRoles,
  meetsCondition,
} from "../../src/identity/claim-conditions.ts";

const claims = JSON.parse(`{
  "sub": "system:serviceaccount:agents:researcher", "count": 7, "zero": 0, "flag": false, "text": "7", "nothing": null, "empty": "",
  "groups": ["dev", "ops", 7, null, ["nested"]], "big": 9007199254740993, "spiffe": "spiffe://acme.example/ns/agents/sa/researcher",
  "https://sts.amazonaws.com/": { "account": "123" }, "/odd": "top", "a/b~c": { "": "blank" },
  "kubernetes.io": { "namespace": "agents", "serviceaccount": { "uid": "u-1" }, "pods": [{ "uid": "p-1" }] }
}`) as Record<string, unknown>;

describe("a condition holds exactly when the claim is there, of the same type, and the same", () => {
  test.each<[name: string, condition: ClaimCondition, met: boolean]>([
    ["the same text", { claim: "sub", equals: "system:serviceaccount:agents:researcher" }, true],
    ["a prefix of the text", { claim: "sub", equals: "system:serviceaccount:agents" }, false],
    ["another case", { claim: "sub", equals: "System:serviceaccount:agents:researcher" }, false],
    ["the same number", { claim: "count", equals: 7 }, true],
    ["a number is not its text", { claim: "count", equals: "7" }, false],
    ["a text is not its number", { claim: "text", equals: 7 }, false],
    ["false is a value", { claim: "flag", equals: false }, true],
    ["0 is not false", { claim: "zero", equals: false }, false],
    ["false is not 0", { claim: "flag", equals: 0 }, false],
    ["null equals nothing", { claim: "nothing", equals: "null" }, false],
    ["a missing claim", { claim: "absent", equals: "x" }, false],
    ["a missing claim, false", { claim: "absent", equals: false }, false],
    ["a pattern is only a text", { claim: "sub", equals: "system:*" }, false],
    ["an array is not its element", { claim: "groups", equals: "dev" }, false],
    ["a member of Object.prototype", { claim: "toString", equals: "x" }, false],
    ["one of two", { claim: "text", one_of: ["6", "7"] }, true],
    ["one of two, of other types", { claim: "text", one_of: [6, 7] }, false],
    ["none of two", { claim: "sub", one_of: ["a", "b"] }, false],
    ["a missing claim is one of nothing", { claim: "absent", one_of: ["a"] }, false],
    ["an array that contains it", { claim: "groups", contains: "ops" }, true],
    ["an array that contains its number", { claim: "groups", contains: 7 }, true],
    ["an array that contains another type", { claim: "groups", contains: "7" }, false],
    ["an array whose inner array contains it", { claim: "groups", contains: "nested" }, false],
    ["a text that contains it is no array", { claim: "sub", contains: "agents" }, false],
    ["a text that is it is no array", { claim: "text", contains: "7" }, false],
    ["a nested claim", { claim: "/kubernetes.io/serviceaccount/uid", equals: "u-1" }, true],
    ["a nested claim that is missing", { claim: "/kubernetes.io/pod/uid", equals: "u-1" }, false],
    ["a pointer through a text", { claim: "/sub/length", equals: 39 }, false],
    ["a pointer into an array", { claim: "/kubernetes.io/pods/0/uid", equals: "p-1" }, false],
    ["a pointer to an inherited member", { claim: "/kubernetes.io/constructor/name", equals: "Object" }, false],
    ["a pointer through null", { claim: "/nothing/x", equals: "x" }, false],
    ["a name with dots is no path", { claim: "kubernetes.io.namespace", equals: "agents" }, false],
    ["a name that is a URL", { claim: "/https:~1~1sts.amazonaws.com~1/account", equals: "123" }, true],
    ["a name that starts with a slash, escaped", { claim: "/~1odd", equals: "top" }, true],
    ["a name with slash and tilde, then the empty name", { claim: "/a~1b~0c/", equals: "blank" }, true],
    ["an id below the prefix", { claim: "spiffe", spiffe_prefix: "spiffe://acme.example/ns/agents/*" }, true],
    ["an id right below the prefix", { claim: "spiffe", spiffe_prefix: "spiffe://acme.example/ns/agents/sa/*" }, true],
    [
      "the id itself is not below itself",
      { claim: "spiffe", spiffe_prefix: "spiffe://acme.example/ns/agents/sa/researcher/*" },
      false,
    ],
    ["half a segment", { claim: "spiffe", spiffe_prefix: "spiffe://acme.example/ns/agen/*" }, false],
    ["another trust domain", { claim: "spiffe", spiffe_prefix: "spiffe://acme.example.evil/ns/*" }, false],
    ["not a SPIFFE ID", { claim: "sub", spiffe_prefix: "spiffe://acme.example/ns/*" }, false],
    ["a prefix on an array", { claim: "groups", spiffe_prefix: "spiffe://acme.example/ns/*" }, false],
  ])("%s", (_name, condition, met) => {
    expect(claimConditionSchema.safeParse(condition).success).toBe(true);
    expect(meetsCondition(condition, claims)).toBe(met);
  });

  test.each([
    ["spiffe://acme.example/ns/agents/../admin", false],
    ["spiffe://acme.example/ns/agents/%2e%2e", false],
    ["spiffe://acme.example/ns/agents/", false],
    ["spiffe://acme.example/ns/agents/a/b/c", true],
    ["spiffe://acme.example/ns/agents-evil/a", false],
    ["spiffe://ACME.example/ns/agents/a", false],
  ])("a prefix takes canonical ids alone: %s", (id, met) => {
    expect(meetsCondition({ claim: "id", spiffe_prefix: "spiffe://acme.example/ns/agents/*" }, { id })).toBe(met);
  });

  test("numbers that JSON cannot tell apart cannot be written as a condition, so they match nothing", () => {
    expect(claimConditionSchema.safeParse({ claim: "big", equals: 9007199254740992 }).success).toBe(false);
    expect(meetsCondition({ claim: "big", equals: Number.MAX_SAFE_INTEGER }, claims)).toBe(false);
  });
});

describe("a condition that would not narrow anything, or not what it says, cannot be written", () => {
  test.each<[name: string, condition: unknown]>([
    ["no comparison", { claim: "sub" }],
    ["two comparisons", { claim: "sub", equals: "a", one_of: ["b"] }],
    ["an unknown comparison", { claim: "sub", matches: ".*" }],
    ["one of nothing", { claim: "sub", one_of: [] }],
    ["an empty text", { claim: "sub", equals: "" }],
    ["null", { claim: "sub", equals: null }],
    ["a fraction", { claim: "n", equals: 0.5 }],
    ["an object", { claim: "sub", equals: {} }],
    ["an empty claim name", { claim: "", equals: "a" }],
    ["a pointer to everything", { claim: "/", equals: "a" }],
    ["a pointer with a bad escape", { claim: "/a~2", equals: "a" }],
    ["a pointer that ends in a tilde", { claim: "/a~", equals: "a" }],
    ["the issuer, which every token has", { claim: "iss", equals: "https://issuer.example" }],
    ["the issuer by pointer", { claim: "/iss", equals: "https://issuer.example" }],
    ["the audience", { claim: "aud", equals: "https://mayfly.example" }],
    ["an element of the audience", { claim: "aud", contains: "https://mayfly.example" }],
    ["a time", { claim: "exp", one_of: [1, 2] }],
    ["a whole trust domain", { claim: "sub", spiffe_prefix: "spiffe://acme.example/*" }],
    ["a wildcard inside a segment", { claim: "sub", spiffe_prefix: "spiffe://acme.example/agent*" }],
    ["a wildcard in the middle", { claim: "sub", spiffe_prefix: "spiffe://acme.example/*/agent/*" }],
    ["a prefix without wildcard", { claim: "sub", spiffe_prefix: "spiffe://acme.example/agent" }],
    ["a prefix of an upper-case trust domain", { claim: "sub", spiffe_prefix: "spiffe://ACME.example/agent/*" }],
    ["a prefix with dots", { claim: "sub", spiffe_prefix: "spiffe://acme.example/../*" }],
  ])("%s", (_name, condition) => {
    expect(claimConditionSchema.safeParse(condition).success).toBe(false);
  });
});

describe("nobody is identified by nothing", () => {
  test("an empty list is refused by the schema, and identifies nobody if it got there all the same", () => {
    expect(identifyingConditionsSchema.safeParse([]).success).toBe(false);
    expect(identifies([], claims)).toBe(false);
  });

  test("every condition must hold", () => {
    const [yes, no] = [
      { claim: "text", equals: "7" },
      { claim: "text", equals: "8" },
    ] as const;
    expect([
      identifies([yes], claims),
      identifies([yes, yes], claims),
      identifies([yes, no], claims),
      identifies([no], claims),
    ]).toEqual([true, true, false, false]);
  });

  test("roles are given by the mappings that hold, each once", () => {
    const is = (equals: string) => [{ claim: "text", equals }];
    const mappings = [
      { when: is("7"), roles: ["auditor", "approver"] as const },
      { when: is("8"), roles: ["admin"] as const },
      { when: [{ claim: "groups", contains: "ops" }], roles: ["auditor", "orchestrator"] as const },
      { when: [], roles: ["operator"] as const },
    ];
    expect([...mappedRoles(mappings, claims)].sort()).toEqual(["approver", "auditor", "orchestrator"]);
    expect(mappedRoles([], claims)).toEqual([]);
  });
});

test("a claim that every object inherits is not there", () => {
  for (const name of ["toString", "constructor", "__proto__", "/kubernetes.io/toString", "/kubernetes.io/__proto__"]) {
    expect(claimAt(claims, name)).toBeUndefined();
  }
});

test("~01 is ~1 and not a slash (RFC 6901 §4)", () => {
  expect([claimAt({ "~1": "a", "/": "b" }, "/~01"), claimAt({ "~1": "a", "/": "b" }, "/~1")]).toEqual(["a", "b"]);
});

test("property: a claim is found under its pointer whatever its name, and only there", () => {
  fc.assert(
    fc.property(fc.array(fc.string({ minLength: 1 }), { minLength: 1, maxLength: 4 }), (path) => {
      const nested = path.reduceRight<unknown>((value, name) => Object.fromEntries([[name, value]]), "here") as Record<
        string,
        unknown
      >;
      const pointer = path.map((name) => `/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
      expect(claimAt(nested, pointer)).toBe("here");
      expect(claimAt(nested, `${pointer}/x`)).toBeUndefined();
    }),
  );
});
