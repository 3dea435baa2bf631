import { execFile } from "node:child_process";
import { cp, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "@jest/globals";
import { testDirectory } from "../support/directory.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

interface Cruised {
  readonly modules: readonly { readonly source: string }[];
  readonly summary: {
    readonly violations: readonly { readonly from: string; readonly rule: { readonly name: string } }[];
  };
}

/** One violation of each rule of .dependency-cruiser.cjs, as a file that somebody might write. */
const planted = {
  "no-cycles": ["src/tasks/planted-a.ts", 'import "./planted-b.ts";'],
  resolvable: ["src/tasks/planted-c.ts", 'import "./nothing-here.ts";'],
  "not-to-dev-dependencies": ["src/tasks/planted-d.ts", 'import "fast-check";'],
  "lib-imports-nothing-of-ours": ["src/lib/planted.ts", 'import type { Db } from "../db/database.ts";'],
  "db-is-ground-floor": ["src/db/planted.ts", 'import "../credentials/mint.ts";'],
  "queue-is-ground-floor": ["src/queue/planted.ts", 'import "../db/database.ts";'],
  "http-is-ground-floor": ["src/http/planted.ts", 'import "../db/database.ts";'],
  "issuers-is-ground-floor": ["src/issuers/planted.ts", 'import "../db/database.ts";'],
  "verify-is-ground-floor": ["src/verify/planted.ts", 'import "../identity/verify-token.ts";'],
  "verify-needs-jose-alone": ["src/verify/planted-zod.ts", 'import "../lib/wire.ts";'],
  "verify-is-for-others": ["src/tasks/planted-o.ts", 'import type { Access } from "../verify/index.ts";'],
  "http-behind-routes": ["src/tasks/planted-e.ts", 'import type { Reply } from "../http/endpoint.ts";'],
  "queue-behind-jobs": ["src/tasks/planted-f.ts", 'export * from "../queue/bullmq.ts";'],
  "issuers-behind-registry": [
    "src/tasks/planted-g.ts",
    'const p = await import("../issuers/postgres.ts"); export { p };',
  ],
  "config-at-the-root": ["src/tasks/planted-h.ts", 'import "../config.ts";'],
  "nothing-imports-the-root": ["src/tasks/planted-i.ts", 'import "../broker.ts";'],
  "express-in-http": ["src/tasks/planted-j.ts", 'import "express";'],
  "bullmq-in-queue": ["src/tasks/planted-k.ts", 'import "bullmq";'],
  "ioredis-in-queue": ["src/tasks/planted-l.ts", 'import "ioredis";'],
  "cedar-in-policy": ["src/tasks/planted-m.ts", 'import "@cedar-policy/cedar-wasm/nodejs";'],
  "pg-in-db": ["src/tasks/planted-n.ts", 'import type { Client } from "pg"; await using x = y;'],
} as const satisfies Record<string, readonly [string, string]>;

test("the check reads the whole tree, and not, for want of a parser, nothing", async () => {
  const { modules } = await cruise(root);
  expect(modules.filter(({ source }) => source.startsWith("src/")).length).toBeGreaterThan(20);
  expect(modules.map(({ source }) => source)).toContain("src/lib/errors.ts");
});

test("a violation of every rule is reported, also in a type-only, a re-exporting and a dynamic import", async () => {
  await using copy = await testDirectory();
  for (const name of ["src", "package.json", ".dependency-cruiser.cjs"]) {
    await cp(join(root, name), join(copy.path, name), { recursive: true });
  }
  await symlink(join(root, "node_modules"), join(copy.path, "node_modules"));
  for (const [path, text] of Object.values(planted)) await writeFile(join(copy.path, path), `${text}\n`);
  await writeFile(join(copy.path, "src/tasks/planted-b.ts"), 'import "./planted-a.ts";\n');
  // Until everybody has written theirs, the roots of the tree may be missing.
  await writeFile(join(copy.path, "src/broker.ts"), "export {};\n", { flag: "a" });

  const { violations } = (await cruise(copy.path)).summary;
  const found = violations
    .filter(({ from }) => from.includes("planted"))
    .map(({ from, rule }) => `${rule.name}: ${from}`);
  for (const [rule, [path]] of Object.entries(planted)) expect(found).toContain(`${rule}: ${path}`);
});

test("every rule has its planted violation here", async () => {
  const { default: config } = (await import(join(root, ".dependency-cruiser.cjs"))) as {
    default: { forbidden: { name: string }[] };
  };
  expect(config.forbidden.map(({ name }) => name).toSorted()).toEqual(Object.keys(planted).toSorted());
});

async function cruise(directory: string): Promise<Cruised> {
  const bin = join(root, "node_modules/dependency-cruiser/bin/dependency-cruise.mjs");
  const args = [bin, "src", "--config", ".dependency-cruiser.cjs", "-T", "json"];
  // It exits with the number of violations, which the caller is after.
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: directory, maxBuffer: 1e8 }).catch(
    (error: { stdout: string }) => error,
  );
  return JSON.parse(stdout) as Cruised;
}
