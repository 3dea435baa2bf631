import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

/** Where `redis-server` is, for test/support/redis.ts; undefined when it is not installed. */
function redisServer() {
  const candidates = (process.env.PATH ?? "").split(delimiter).map((directory) => join(directory, "redis-server"));
  return candidates.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

const redis = redisServer();
if (redis !== undefined) process.env.TEST_REDIS_SERVER = redis;
else if (process.env.CI) throw new Error("redis-server is not installed, and in CI the suites on Redis must run");
else process.stderr.write("redis-server is not installed: the suites that need it are not registered\n");

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
  maxWorkers: 2,
};
