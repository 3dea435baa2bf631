import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { LIST_SIZE, permuted } from "../src/status/permute.ts";
import { listOf, signStatusList } from "../src/status/status-list.ts";
import { median, round, table } from "./support/report.ts";

const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const signer = {
  kid: "bench",
  sign(typ: string, claims: object): string {
    const text = [{ alg: "ES256", typ, kid: "bench" }, claims]
      .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
      .join(".");
    return `${text}.${sign("sha256", Buffer.from(text), { key: privateKey, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
  },
};

/** Shares of a list of 2^20 that are revoked. */
const shares = [0, 0.0001, 0.001, 0.01, 0.1, 0.5];
const TIMES = 9;

/** How long it takes to pack, compress and sign a status list of 2^20 tokens, and how large it is, by how many are revoked. */
export async function benchStatus(): Promise<object> {
  const results = [];
  for (const share of shares) results.push(await measureList(share));
  table(
    ["revoked", "ms", "best ms", "bytes"],
    results.map(({ revoked, ms, best_ms: best, bytes }) => [revoked, ms, best, bytes]),
  );
  return { bench: "status", size: LIST_SIZE, results };
}

/** Makes a list of which this share is revoked, a few times: the median, the best, and the size of the signed token. */
export async function measureList(
  share: number,
): Promise<{ readonly revoked: number; readonly ms: number; readonly best_ms: number; readonly bytes: number }> {
  const invalid = permuted(randomBytes(16), 0, LIST_SIZE).subarray(0, Math.round(share * LIST_SIZE));
  const times = [];
  let bytes = 0;
  for (let time = 0; time < TIMES; time += 1) {
    const began = performance.now();
    const issuer = "https://mayfly.example/t/default";
    const list = {
      issuer,
      uri: `${issuer}/status/stl_0`,
      aggregationUri: `${issuer}/status`,
      lst: await listOf(invalid),
    };
    bytes = signStatusList(signer, list, Date.now()).length;
    times.push(performance.now() - began);
  }
  return { revoked: invalid.length, ms: round(median(times), 1), best_ms: round(Math.min(...times), 1), bytes };
}
