import { execFile } from "node:child_process";
import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "@jest/globals";
import { testDirectory } from "../support/directory.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const run = promisify(execFile);

/** What docs/verify.md shows. */
const API = `
import express from "express";
import { accessOf, AccessRefused, createVerifier, protect, serveMetadata } from "mayfly/verify";

const verifier = await createVerifier({
  issuer: "https://mayfly.example/t/acme",
  audience: "https://tickets.example/api",
  authorization: async () => "Bearer token",
  onProblem: ({ code, detail }) => { console.error(code, detail); },
});
const app = express();
app.use(serveMetadata(verifier));
app.use("/tickets", protect(verifier, (request) => ({ action: request.method === "GET" ? "read" : "write", resource: "tickets" })));
app.get("/tickets/:id", (request, response) => { response.json({ by: accessOf(request).subject }); });
app.get("/health", (_request, response) => { response.json(verifier.state()); });
export const status: number = new AccessRefused({ code: "token_missing", detail: "" }, {}).status;
// @ts-expect-error: the types are there, and not any.
export const wrong: string = verifier.state().boundMs;
`;

test("mayfly/verify is what the package exports, and nothing more", async () => {
  const script = `
    const api = await import("mayfly/verify");
    console.log(Object.keys(api).sort().join(" "));
  `;
  const { stdout } = await run(process.execPath, ["--input-type=module", "-e", script], { cwd: root });
  expect(stdout.trim()).toBe("AccessRefused accessOf createVerifier protect serveMetadata");
});

test("its types are usable by an Express API, with all checks of the compiler on", async () => {
  await using directory = await testDirectory();
  const modules = join(directory.path, "node_modules");
  await mkdir(modules);
  await symlink(root, join(modules, "mayfly"));
  for (const name of ["@types", "express"]) await symlink(join(root, "node_modules", name), join(modules, name));
  await writeFile(join(directory.path, "package.json"), '{"type":"module"}');
  await writeFile(join(directory.path, "api.ts"), API);
  const options = {
    module: "nodenext",
    target: "es2022",
    strict: true,
    exactOptionalPropertyTypes: true,
    noEmit: true,
  };
  const config = { compilerOptions: { ...options, types: ["node"] }, files: ["api.ts"] };
  await writeFile(join(directory.path, "tsconfig.json"), JSON.stringify(config));
  const tsc = join(root, "node_modules/typescript/bin/tsc");
  const { stdout } = await run(process.execPath, [tsc, "-p", directory.path]).catch(
    (error: { stdout: string }) => error,
  );
  expect(stdout).toBe("");
});
