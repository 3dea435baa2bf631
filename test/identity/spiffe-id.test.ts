import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { isTrustDomainIssuer, parseSpiffeId } from "../../src/identity/spiffe-id.ts";

describe("a SPIFFE ID has one spelling (SPIFFE-ID §2)", () => {
  test.each([
    ["spiffe://acme.example", "acme.example", ""],
    ["spiffe://acme.example/agent", "acme.example", "/agent"],
    ["spiffe://a/b/c.d/E_F-9", "a", "/b/c.d/E_F-9"],
    ["spiffe://1.2.3.4/x", "1.2.3.4", "/x"],
    ["spiffe://td_x/...", "td_x", "/..."],
    [`spiffe://${"t".repeat(255)}/x`, "t".repeat(255), "/x"],
    [`spiffe://td/${"p".repeat(2048 - 12)}`, "td", `/${"p".repeat(2048 - 12)}`],
  ])("%s is one", (text, trustDomain, path) => {
    expect(parseSpiffeId(text)).toEqual({ trustDomain, path });
  });

  test.each([
    "",
    "spiffe:",
    "spiffe://",
    "spiffe:///x",
    "spiffe:/td/x",
    "spiffe://td/",
    "spiffe://td//",
    "spiffe://td//x",
    "spiffe://td/x/",
    "spiffe://td/.",
    "spiffe://td/..",
    "spiffe://td/./x",
    "spiffe://td/x/../y",
    "spiffe://td/x?",
    "spiffe://td/x?y",
    "spiffe://td/x#",
    "spiffe://td?x",
    "spiffe://td#x",
    "spiffe://td:80/x",
    "spiffe://u@td/x",
    "spiffe://u:p@td/x",
    "spiffe://TD/x",
    "spiffe://Td/x",
    "SPIFFE://td/x",
    "Spiffe://td/x",
    "http://td/x",
    "spiffe://td/%41",
    "spiffe://td%2ex/x",
    "spiffe://td/a b",
    " spiffe://td/x",
    "spiffe://td/x ",
    "spiffe://td/x\n",
    "spiffe://td/é",
    "spiffe://tdé/x",
    "spiffe://td/a+b",
    "spiffe://td/a:b",
    "spiffe://td/a\\b",
    "spiffe://td/a~b",
    "spiffe://[::1]/x",
    `spiffe://${"t".repeat(256)}/x`,
    `spiffe://td/${"p".repeat(2048)}`,
  ])("%j is none", (text) => {
    expect(parseSpiffeId(text)).toBeUndefined();
  });

  test("property: what parses is spelled by its parts, so equal ids are equal texts", () => {
    const piece = fc.constantFrom(
      "spiffe://",
      "td",
      "TD",
      "/",
      "//",
      ".",
      "..",
      "%2e",
      "a",
      "?",
      "#",
      "@",
      ":",
      "é",
      "-",
      "_",
      " ",
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 8 }), (pieces) => {
        const text = pieces.join("");
        const id = parseSpiffeId(text);
        if (id !== undefined) expect(text).toBe(`spiffe://${id.trustDomain}${id.path}`);
        if (id !== undefined) expect(text).toMatch(/^spiffe:\/\/[a-z0-9._-]+(\/[A-Za-z0-9._-]+)*$/);
      }),
      { numRuns: 5000 },
    );
  });

  test("a trust source's issuer is a trust domain without a path", () => {
    expect([
      isTrustDomainIssuer("spiffe://td"),
      isTrustDomainIssuer("spiffe://td/x"),
      isTrustDomainIssuer("https://td"),
    ]).toEqual([true, false, false]);
  });
});
