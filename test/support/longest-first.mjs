import { statSync } from "node:fs";

/** The suites that take longest, the longest first: one that starts last is what everybody waits for in the end. */
const long = [
  "test/oauth/single-use.test.ts",
  "test/credentials/races.test.ts",
  "test/delegation/tree.test.ts",
  "test/faults/crash-cascade.test.ts",
  "test/faults/crash.test.ts",
  "test/faults/queue.redis.test.ts",
  "test/faults/crash-matrix.test.ts",
  "test/verify/end-to-end.test.ts",
  "test/faults/rights-lost.test.ts",
  "test/db/embedded.test.ts",
  "test/queue/queue.postgres.test.ts",
  "test/policy/properties.test.ts",
  "test/faults/postgres-faults.test.ts",
  "test/faults/every-end.test.ts",
  "test/faults/every-end.redis.test.ts",
  "test/status/events.test.ts",
  "test/queue/queue.redis.test.ts",
  "test/faults/queue.test.ts",
  "test/policy/wasm-crash.test.ts",
];

/**
 * The order in which Jest starts suites. It remembers how long they took, but a fresh clone has nothing to remember: the
 * known long ones, then by size of the file.
 */
export default class LongestFirst {
  sort(tests) {
    const key = ({ path }) => {
      const place = long.findIndex((name) => path.endsWith(`/${name}`));
      return place < 0 ? statSync(path).size : Number.MAX_SAFE_INTEGER - place;
    };
    const keys = new Map(tests.map((test) => [test, key(test)]));
    return tests.toSorted((a, b) => keys.get(b) - keys.get(a));
  }

  // Jest asks for these two; there is nothing to remember.
  cacheResults() {}

  allFailedTests(tests) {
    return tests;
  }
}
