import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

/** Where a server program is, for test/support; undefined when it is not installed, which in CI is an error. */
function serverProgram(name) {
  const candidates = (process.env.PATH ?? "").split(delimiter).map((directory) => join(directory, name));
  const found = candidates.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
  if (found === undefined && process.env.CI)
    throw new Error(`${name} is not installed, and in CI the suites that need it must run`);
  if (found === undefined)
    process.stderr.write(`${name} is not installed: the suites that need it are not registered\n`);
  return found;
}

const redis = serverProgram("redis-server");
if (redis !== undefined) process.env.TEST_REDIS_SERVER = redis;
// Debian has it where only root's PATH leads.
process.env.PATH = `${process.env.PATH ?? ""}${delimiter}/usr/sbin`;
const mariadb = serverProgram("mariadbd");
if (mariadb !== undefined) process.env.TEST_MARIADB_SERVER = mariadb;

const conformance = process.env.TEST_MCP_CONFORMANCE;
if (conformance === undefined && process.env.CI)
  throw new Error("TEST_MCP_CONFORMANCE is not set, and in CI MCP's conformance suite must run (.ci/run installs it)");

/** Jest 30 in ESM mode through swc: ts-jest does not know TypeScript 7. */
export default {
  testEnvironment: "node",
  roots: ["<rootDir>/test"],
  testMatch: ["**/*.test.ts"],
  testPathIgnorePatterns: [
    "/node_modules/",
    ...(redis === undefined ? ["\\.redis\\.test\\.ts$"] : []),
    ...(mariadb === undefined ? ["\\.mariadb\\.test\\.ts$"] : []),
    ...(conformance === undefined ? ["/mcp-conformance\\.test\\.ts$"] : []),
  ],
  modulePathIgnorePatterns: ["<rootDir>/dist", "<rootDir>/\\.mayfly"],
  extensionsToTreatAsEsm: [".ts"],
  // Examples import the kit by the name that its users know, and run on the source here.
  moduleNameMapper: { "^mayfly/verify$": "<rootDir>/src/verify/index.ts" },
  transform: {
    "^.+\\.ts$": [
      "@swc/jest",
      { jsc: { target: "es2022", parser: { syntax: "typescript" }, keepClassNames: true }, sourceMaps: "inline" },
    ],
  },
  setupFiles: ["<rootDir>/test/support/realm.ts"],
  globalSetup: "<rootDir>/test/support/global-setup.ts",
  globalTeardown: "<rootDir>/test/support/global-teardown.ts",
  // Generous, because the two cores are shared; a guarantee about time is a condition in the test, never this number.
  testTimeout: 60_000,
  testSequencer: "<rootDir>/test/support/longest-first.mjs",
  // One more than the cores: many suites wait most of the time.
  maxWorkers: 3,
};
