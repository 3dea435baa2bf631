import { describe, expect, test } from "@jest/globals";
import { validatePolicies } from "../../src/policy/validate.ts";

const policy = (notes: string, rest = "", effect = "forbid") =>
  `${notes}\n${effect} (principal, action, resource)${rest};`;
const OPEN = policy('@id("open")', "", "permit");
const messages = (text: string) => validatePolicies(text).map(({ message }) => message);

describe("what may be published", () => {
  test.each([
    ["nothing at all", ""],
    ["comments alone", "// nothing yet\r\n"],
    ["a permit", OPEN],
    [
      "every remedy",
      policy('@id("a") @remedy("ttl:300")', " when { context.ttl_seconds > 300 }") +
        policy('@id("b") @remedy("dpop")', ' when { context.binding == "bearer" }') +
        policy(
          '@id("c") @remedy("approval:payments-oncall")',
          ' unless { context.approvals.containsAny(["payments-oncall"]) }',
        ),
    ],
    ["annotations of the company's own", policy('@id("a") @ticket("SEC-12")')],
    [
      "every fact of the schema",
      policy(
        '@id("a")',
        ` when {
      principal.kind == "agent" && principal.name == "x" && principal.environment == "staging" && principal.owner == "x" &&
      principal.relations.contains({ relation: "member", object: "x" }) && principal in Group::"x" &&
      resource.kind == "anything" && resource.name like "x*" && resource.classification == "public" && resource.environment == "staging" &&
      resource.risk == "low" && resource in Group::"x" && context.operation == "x" && context.data_class == "public" &&
      context.environment == "staging" && context.ttl_seconds > 1 && context.binding == "mtls" && context.delegation_depth > 1 &&
      context.approvals.contains("x") && context.purpose.id == "x" && context.purpose.name == "x" &&
      context.purpose.max_ttl_seconds > 1 && context.task.id == "x" && context.task.initiated_by == "human" &&
      context.target.id == "x" && context.target.issuer == "x" && context.target.revocability == "expiry" }`,
      ),
    ],
    ["sets of closed words", policy('@id("a")', ' when { ["high", "medium"].contains(resource.risk) }')],
    ["names from Object.prototype", policy('@id("constructor")') + policy('@id("valueof")')],
    ["a thousand policies", Array.from({ length: 1000 }, (_, i) => policy(`@id("p-${i}")`)).join("")],
  ])("%s", (_name, text) => {
    expect(validatePolicies(text)).toEqual([]);
  });
});

describe("what may not", () => {
  const refused: [name: string, text: string, message: RegExp, line: number, policyId?: string][] = [
    ["a syntax error", `${OPEN}\n// é\nforbid (principal, action, resoce);`, /invalid variable/, 4],
    [
      "an unknown attribute",
      `${OPEN}\n${policy('@id("a")', " when {\n context.nonsense }")}`,
      /attribute `nonsense`/,
      5,
      "a",
    ],
    ["a type error", policy('@id("a")', ' when { context.ttl_seconds > "5" }'), /unexpected type/, 2, "a"],
    [
      "an unknown action",
      '@id("a") forbid (principal, action == Action::"drop", resource);',
      /unrecognized action/,
      1,
      "a",
    ],
    [
      "an unknown entity type",
      '@id("a") forbid (principal is User, action, resource);',
      /unrecognized entity type/,
      1,
      "a",
    ],
    ["a condition that is never true", policy('@id("a")', " when { 1 == 2 }"), /impossible/, 1, "a"],
    ["a template", '@id("a") permit (principal == ?principal, action, resource);', /templates/, 1],
    ["no id", `${OPEN}\n${policy("")}`, /needs an @id/, 4],
    ["an empty id", policy("@id"), /needs an @id/, 1],
    ["an id that is no id", policy('@id("No_id")'), /lower-case/, 1, "No_id"],
    ["an id of 65 characters", policy(`@id("${"a".repeat(65)}")`), /at most 64/, 1, "a".repeat(65)],
    ["an id twice", `${OPEN}\n${OPEN}`, /two policies have the @id "open"/, 3, "open"],
    ["Cedar's own id", policy('@id("policy0")'), /reserved/, 1, "policy0"],
    ["Mayfly's own id", policy('@id("mayfly-break-glass")'), /reserved/, 1, "mayfly-break-glass"],
    ["an id given twice", policy('@id("a") @id("b")'), /duplicate annotation/, 1],
    ["an unknown remedy", policy('@id("a") @remedy("money")'), /none of/, 1, "a"],
    ["an empty remedy", policy('@id("a") @remedy'), /none of/, 1, "a"],
    ["a remedy in seconds and a half", policy('@id("a") @remedy("ttl:1.5")'), /none of/, 1, "a"],
    ["a remedy of no time", policy('@id("a") @remedy("ttl:0")'), /none of/, 1, "a"],
    ["a remedy with more behind it", policy('@id("a") @remedy("dpop\\n")'), /none of/, 1, "a"],
    ["an approval by nobody", policy('@id("a") @remedy("approval:")'), /none of/, 1, "a"],
    [
      "a remedy on a permit",
      policy('@id("a") @remedy("dpop")', ' when { context.binding == "dpop" }', "permit"),
      /permit has no @remedy/,
      1,
      "a",
    ],
    [
      "an approval that the condition does not ask for",
      policy('@id("a") @remedy("approval:x")', ' unless { context.approvals.contains("y") }'),
      /can never lift/,
      1,
      "a",
    ],
    ["a ttl remedy without a ttl", policy('@id("a") @remedy("ttl:60")'), /can never lift/, 1, "a"],
    ["a dpop remedy without a binding", policy('@id("a") @remedy("dpop")'), /can never lift/, 1, "a"],
    ["an empty reason", policy('@id("a") @reason(" ")'), /@reason is a sentence/, 1, "a"],
    ["a reason of 501 characters", policy(`@id("a") @reason("${"x".repeat(501)}")`), /@reason is a sentence/, 1, "a"],
    [
      "a misspelt word",
      policy('@id("a")', ' when { resource.risk == "hgih" }'),
      /"hgih" is not a value of risk/,
      1,
      "a",
    ],
    ["a misspelt word first", policy('@id("a")', ' when { "prod" != context.environment }'), /"prod" is not/, 1, "a"],
    [
      "a misspelt word in a set",
      policy('@id("a")', ' when { ["public", "secret"].contains(context.data_class) }'),
      /"secret" is not/,
      1,
      "a",
    ],
    [
      "a misspelt word, nested",
      policy('@id("a")', ' when { context.target.revocability == "never" }'),
      /"never" is not/,
      1,
      "a",
    ],
    ["an agent kind that is none", policy('@id("a")', ' when { principal.kind == "robot" }'), /"robot" is not/, 1, "a"],
    [
      "another agent's attributes",
      policy('@id("a")', ' when { Agent::"agt_1".environment == "staging" }'),
      /only principal and resource/,
      1,
      "a",
    ],
    [
      "another agent's groups",
      policy('@id("a")', ' when { Agent::"agt_1" in Group::"x" }'),
      /only principal and resource/,
      1,
      "a",
    ],
    ["a right-to-left override", policy('@id("a") @reason("\u202egnp.exe")'), /invisible/, 1],
    ["a zero-width space, in a comment", `// a\u200b\n${OPEN}`, /invisible/, 1],
    ["a NUL", `${OPEN}\n\u0000`, /invisible/, 3],
    ["half of a surrogate pair", `${OPEN}\n// \ud800`, /invisible/, 3],
    [
      "a policy hidden behind a carriage return",
      `// harmless\r@id("a") @remedy("x") forbid (principal, action, resource);`,
      /none of/,
      1,
      "a",
    ],
  ];
  test.each(refused.map(([name, text, message, line, policyId]) => ({ name, text, message, line, policyId })))(
    "$name",
    ({ text, message, line, policyId }) => {
      expect(validatePolicies(text).filter((each) => message.test(each.message))).toEqual([
        { message: expect.any(String), line, ...(policyId === undefined ? {} : { policyId }) },
      ]);
    },
  );

  test("more than 256 KiB, counted in bytes", () => {
    const padded = (comment: string) => `// ${comment}\n${OPEN}`;
    const room = 256 * 1024 - Buffer.byteLength(padded(""));
    expect(messages(padded("x".repeat(room)))).toEqual([]);
    expect(messages(padded("x".repeat(room + 1)))).toEqual(["the text has 262145 bytes, at most 262144 are allowed"]);
    expect(messages(padded("é".repeat(room / 2 + 1)))[0]).toMatch(/bytes, at most/);
  });

  test("more than a thousand policies", () => {
    const text = Array.from({ length: 1001 }, (_, i) => policy(`@id("p-${i}")`)).join("");
    expect(messages(text)).toEqual(["there are 1001 policies, at most 1000 are allowed"]);
  });

  test("every problem is told at once, in the order of the text", () => {
    const text = [
      policy('@id("a") @remedy("x")'),
      policy('@id("b")', " when { context.no }"),
      policy('@id("c")', ' when { resource.risk == "x" }'),
    ].join("\n");
    expect(validatePolicies(text).map(({ policyId }) => policyId)).toEqual(["a", "b", "c"]);
  });
});
