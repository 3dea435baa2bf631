import { expect, test } from "@jest/globals";
import { scramVerifier } from "../../src/issuers/scram.ts";
import { Secret } from "../../src/lib/secret.ts";

test("the verifier of RFC 7677's example is the one that PostgreSQL stores for it", async () => {
  const salt = Buffer.from("W22ZaJ0SNY7soEsUEjb6gQ==", "base64");
  expect(await scramVerifier(new Secret("pencil"), salt)).toBe(
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
  );
});

test("every verifier has a salt of its own", async () => {
  const password = new Secret("pencil");
  expect(await scramVerifier(password)).not.toBe(await scramVerifier(password));
});
