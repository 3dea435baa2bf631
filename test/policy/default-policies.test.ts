import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "@jest/globals";
import { defaultPolicies } from "../../src/policy/default-policies.ts";
import { decide } from "../../src/policy/engine.ts";
import { validatePolicies } from "../../src/policy/validate.ts";
import { type Case, compiled } from "./fixtures.ts";

const outcomes = { ALLOW: "allow", DENY: "deny", ALLOW_IF: "allow_if" } as const;
const defaults = compiled(defaultPolicies);

function casesIn(folder: keyof typeof outcomes): [name: string, Case][] {
  const directory = fileURLToPath(new URL(folder, import.meta.url));
  return readdirSync(directory).map((file) => {
    if (!file.endsWith(".json")) throw new Error(`${folder}/${file} is not a case`);
    return [file.slice(0, -".json".length), JSON.parse(readFileSync(`${directory}/${file}`, "utf8")) as Case];
  });
}

describe.each(["ALLOW", "DENY", "ALLOW_IF"] as const)("%s", (folder) => {
  test.each(casesIn(folder))("%s", (_name, { input, expect: expected }) => {
    const { outcome, ttlSeconds, determining, reasons } = decide(defaults, input);
    const named = reasons.map(({ code, policy, remedy }) => ({ code, policy, remedy }));
    expect({ outcome, ttlSeconds, determining, reasons: named }).toEqual({
      outcome: outcomes[folder],
      reasons: [],
      ...expected,
    });
  });
});

test("the default policies can be published", () => {
  expect(validatePolicies(defaultPolicies)).toEqual([]);
});

test("every default policy has an id, a reason and a case that it decides", () => {
  const ids = [...defaultPolicies.matchAll(/^@id\("(.+)"\)\n@reason\("([A-Z].+\.)"\)$/gm)].map(([, id]) => id);
  const decided = new Set(
    (["ALLOW", "DENY", "ALLOW_IF"] as const).flatMap(casesIn).flatMap(
      ([
        ,
        {
          expect: { determining },
        },
      ]) => determining,
    ),
  );
  expect(ids).toHaveLength([...defaults.notes].length);
  expect(ids.filter((id) => !decided.has(id ?? ""))).toEqual([]);
});
