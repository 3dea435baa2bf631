import { execFile } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type App, startApp } from "../support/app.ts";
import { seed } from "../support/seed.ts";

/** A directory in which `node` 22, which the suite needs, and the suite are installed. Without one this file is not run. */
const home = process.env["TEST_MCP_CONFORMANCE"] as string;
const client = `${process.execPath} --import tsx ${join(import.meta.dirname, "conformance-client.ts")}`;

let app: App;
let results: string;

beforeAll(async () => {
  app = await startApp();
  await seed(app.broker, app.idp);
  results = await mkdtemp(join(tmpdir(), "mayfly-conformance-"));
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
  await rm(results, { recursive: true, force: true });
});

interface Check {
  readonly id: string;
  readonly status: "SUCCESS" | "FAILURE" | "WARNING" | "INFO" | "SKIPPED";
  readonly errorMessage?: string;
  readonly details?: { readonly propertyReached?: boolean };
}

/** Runs one scenario; what the suite noted of it, whatever it thinks of the whole. */
async function run(args: readonly string[], env: Record<string, string> = {}): Promise<Check[]> {
  const node = join(home, "node_modules", `node-${process.platform}-${process.arch}`, "bin", "node");
  const suite = join(home, "node_modules/@modelcontextprotocol/conformance/dist/index.js");
  const directory = await mkdtemp(join(results, "run-"));
  const said = await new Promise<string>((resolve) => {
    execFile(
      node,
      [suite, ...args, "--output-dir", directory],
      { env: { PATH: process.env["PATH"] ?? "", ...env }, timeout: 120_000 },
      (_error, stdout, stderr) => resolve(`${stdout}\n${stderr}`),
    );
  });
  const [file] = (await readdir(directory, { recursive: true })).filter((name) => name.endsWith("checks.json"));
  if (file === undefined) throw new Error(`the suite noted nothing: ${said}`);
  return JSON.parse(await readFile(join(directory, file), "utf8")) as Check[];
}

const failed = (checks: readonly Check[]): Check[] => checks.filter(({ status }) => status === "FAILURE");
const idsOf = (checks: readonly Check[]): string[] => checks.map(({ id }) => id);

describe("MCP's own conformance suite", () => {
  test("the example's client gets its token by client credentials with private_key_jwt", async () => {
    const checks = await run(["client", "--command", client, "--scenario", "auth/client-credentials-jwt"]);
    expect(failed(checks)).toEqual([]);
    expect(idsOf(checks)).toEqual(expect.arrayContaining(["client-credentials-jwt-verified"]));
  });

  test("it uses no metadata of an issuer other than the one it asked", async () => {
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const checks = await run(["client", "--command", client, "--scenario", "auth/metadata-issuer-mismatch"], {
      CONFORMANCE_KEY: privateKey.export({ format: "pem", type: "pkcs8" }).toString(),
    });
    expect(failed(checks)).toEqual([]);
    const judged = checks.find(({ id }) => id === "sep-2468-client-validate-metadata-issuer");
    // Reached: the client has read the metadata, and then used none of it.
    expect(judged).toMatchObject({ status: "SUCCESS", details: { propertyReached: true } });
  });

  test("our metadata has everything that it asks for but what only browsers need", async () => {
    const checks = await run([
      "authorization",
      `--url=${app.broker.issuerUrl("default")}`,
      "--scenario=authorization-server-metadata-endpoint",
    ]);
    const [metadata] = failed(checks);
    const missing = ["authorization_endpoint", "response_types_supported", "code_challenge_methods_supported"];
    expect(metadata?.errorMessage?.split(", ")).toEqual(
      missing.map((name) => `Response body does not include valid "${name}" claim`),
    );
    expect(failed(checks)).toHaveLength(1);
  });
});
