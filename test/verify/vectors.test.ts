import { expect, test } from "@jest/globals";
import { calculateJwkThumbprint } from "jose";
import { createProofCheck } from "../../src/identity/dpop-proof.ts";

/** RFC 9449 §7.1, figures 12 and 13. */
const TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
const PROOF =
  "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMi" +
  "LCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoi" +
  "R0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNF" +
  "c05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
const ATH = "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo";
const JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

const request = { method: "GET", url: "https://resource.example.org/protectedresource" };
const consume = (): { fresh: boolean } => ({ fresh: true });

test("the proof of RFC 9449 §7.1 is taken for its token and its key, and for no other", async () => {
  const check = createProofCheck({ nowMs: () => 1_562_262_618_000 });
  const { createHash } = await import("node:crypto");
  const hash = createHash("sha256").update(TOKEN).digest("base64url");
  expect(hash).toBe(ATH);
  expect(await check(PROOF, { ...request, token: { hash, thumbprint: JKT } }, consume)).toEqual({
    ok: true,
    thumbprint: JKT,
  });
  const other = await check(PROOF, { ...request, token: { hash, thumbprint: "A".repeat(43) } }, consume);
  expect(other).toMatchObject({ ok: false, problem: "other_key" });
  const forged = `${PROOF.slice(0, -2)}jQ`;
  expect(await check(forged, { ...request, token: { hash, thumbprint: JKT } }, consume)).toMatchObject({ ok: false });
});

test("the thumbprint of RFC 7638 §3.1", async () => {
  const n =
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
  expect(await calculateJwkThumbprint({ kty: "RSA", n, e: "AQAB", alg: "RS256", kid: "2011-04-29" })).toBe(
    "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
  );
});
