// Who may import whom (ARCHITECTURE.md). test/architecture/boundaries.test.ts proves that these rules can fail: without
// @swc/core dependency-cruiser reads no TypeScript 7, and silently finds nothing wrong in nothing.

const { Visitor } = require("@swc/core/Visitor.js");

// The visitor that dependency-cruiser builds on is older than `using` and throws when it meets one.
const { visitStatement } = Visitor.prototype;
Visitor.prototype.visitStatement = function (statement) {
  if (statement.type !== "UsingDeclaration") return visitStatement.call(this, statement);
  statement.decls = this.visitVariableDeclarators(statement.decls);
  return statement;
};

/** Modules of ours that only some folders may import. */
function only(name, comment, from, to, exceptTo = []) {
  return {
    name,
    comment,
    severity: "error",
    from: { path: "^src/", pathNot: from },
    to: { path: to, ...(exceptTo.length > 0 ? { pathNot: exceptTo } : {}) },
  };
}

/** A package that only some files may import, so that it can be replaced and its traps are met once. */
function wrapped(name, packages, from) {
  return {
    name,
    comment: `${packages.join(", ")} is imported in ${from.join(", ")} alone`,
    severity: "error",
    from: { path: "^src/", pathNot: from },
    to: { path: packages.map((pattern) => `node_modules/${pattern}`) },
  };
}

/** What a folder of the ground floor may import of ours. */
function floor(folder, allowed) {
  return {
    name: `${folder}-is-ground-floor`,
    comment: `${folder}/ imports of ours only itself, ${allowed.join(", ")}`,
    severity: "error",
    from: { path: `^src/${folder}/` },
    to: { path: "^src/", pathNot: [`^src/${folder}/`, ...allowed] },
  };
}

/** Where the parts are put together. */
const composition = ["^src/(broker|api|worker)\\.ts$", "^src/bin/", "^src/demo/"];
const principal = "^src/identity/principal\\.ts$";
/** Judging tokens and proofs by themselves: no database, no schema library, no configuration. */
const proofFiles = ["^src/identity/(decode-token|dpop-nonce|dpop-proof|is-signed-by|key-set|public-jwk|refusal)\\.ts$"];

module.exports = {
  forbidden: [
    {
      name: "no-cycles",
      comment: "of two files that import each other, neither can be read first",
      severity: "error",
      from: {},
      to: { circular: true },
    },
    {
      name: "resolvable",
      comment: "an import that cannot be resolved is one that the other rules cannot judge",
      severity: "error",
      from: {},
      to: { couldNotResolve: true },
    },
    {
      name: "not-to-dev-dependencies",
      comment: "what the product imports is installed with it",
      severity: "error",
      from: { path: "^src/" },
      to: { dependencyTypes: ["npm-dev", "npm-no-pkg", "npm-unknown"], dependencyTypesNot: ["type-only"] },
    },
    {
      name: "lib-imports-nothing-of-ours",
      comment: "lib/ is what everything stands on",
      severity: "error",
      from: { path: "^src/lib/" },
      to: { path: "^src/", pathNot: "^src/lib/" },
    },
    // db/idempotency.ts stores what http/ decides; it knows the interface and nothing else of http/.
    floor("db", ["^src/lib/", principal, "^src/http/idempotency\\.ts$"]),
    floor("queue", ["^src/lib/", principal]),
    floor("http", ["^src/lib/", principal]),
    floor("issuers", ["^src/lib/"]),
    // What runs inside other people's APIs: the pure half of identity/, and none of the broker.
    floor("verify", ["^src/lib/", ...proofFiles]),
    {
      name: "verify-needs-jose-alone",
      comment: "whoever imports mayfly/verify brings jose and node, and nothing else of ours",
      severity: "error",
      from: { path: ["^src/verify/"] },
      to: { path: "node_modules/", pathNot: ["node_modules/(jose|@types/node)/"], reachable: true },
    },
    {
      name: "verify-is-for-others",
      comment: "the broker looks at its own tables; only APIs need the kit",
      severity: "error",
      from: { path: "^src/", pathNot: "^src/verify/" },
      to: { path: "^src/verify/" },
    },
    only(
      "http-behind-routes",
      "a use case does not know that it was called over HTTP: only *.routes.ts imports http/",
      ["^src/http/", "\\.routes\\.ts$", "^src/db/idempotency\\.ts$", ...composition],
      ["^src/http/"],
    ),
    only(
      "queue-behind-jobs",
      "a use case asks for a wake-up (queue/queue.ts) and does not know by what: only *.jobs.ts imports queue/",
      ["^src/queue/", "\\.jobs\\.ts$", ...composition],
      ["^src/queue/"],
      ["^src/queue/queue\\.ts$"],
    ),
    only(
      "issuers-behind-registry",
      "everything but the registry sees an issuer by its interface",
      ["^src/issuers/", ...composition],
      ["^src/issuers/"],
      ["^src/issuers/(registry|issuer)\\.ts$"],
    ),
    only("config-at-the-root", "configuration is read once and handed down in parts", composition, [
      "^src/config\\.ts$",
    ]),
    only(
      "nothing-imports-the-root",
      "broker.ts and bin/ know everything, so nothing may know them",
      composition,
      composition,
    ),
    wrapped("express-in-http", ["express/"], ["^src/http/"]),
    wrapped("bullmq-in-queue", ["bullmq/"], ["^src/queue/"]),
    wrapped("ioredis-in-queue", ["ioredis/"], ["^src/queue/", "^src/issuers/redis[^/]*\\.ts$"]),
    wrapped("cedar-in-policy", ["@cedar-policy/"], ["^src/policy/"]),
    wrapped(
      "pg-in-db",
      ["(@types/)?pg/"],
      ["^src/db/", "^src/demo/", "^src/queue/postgres[^/]*\\.ts$", "^src/issuers/postgres[^/]*\\.ts$", "^src/demo/"],
    ),
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    parser: "swc",
    tsPreCompilationDeps: true,
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["import", "require", "node", "default", "types"],
      extensions: [".ts", ".js", ".json"],
    },
  },
};
