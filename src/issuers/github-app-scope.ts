import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";

/**
 * Permissions that GitHub narrows to repositories. Those of an organization or a user are left out: a token has them whatever
 * its repositories. So is writing what gives access that outlives the token (collaborators, deploy keys, webhooks).
 */
const PERMISSIONS = [
  "actions",
  "administration",
  "attestations",
  "checks",
  "contents",
  "dependabot_secrets",
  "deployments",
  "discussions",
  "environments",
  "issues",
  "merge_queues",
  "metadata",
  "packages",
  "pages",
  "pull_requests",
  "repository_custom_properties",
  "repository_hooks",
  "repository_projects",
  "secret_scanning_alerts",
  "secrets",
  "security_events",
  "single_file",
  "statuses",
  "vulnerability_alerts",
  "workflows",
] as const;
const READ_ALONE: readonly string[] = ["administration", "repository_hooks"];
const MAX_REPOSITORIES = 500;

const repository = z.union([
  z
    .string()
    .regex(/^[A-Za-z0-9._-]{1,100}$/, "the name of a repository, without its owner")
    .refine((name) => !/^\.+$/.test(name), "no name of a repository"),
  z.int().min(1),
]);

/** Which repositories of the installation, all by name or all by id, and what may be done with each of them. */
export const githubAccess = z.strictObject({
  repositories: z.array(repository).min(1).max(MAX_REPOSITORIES),
  permissions: z
    .partialRecord(z.enum(PERMISSIONS), z.enum(["read", "write"]))
    .refine((given) => Object.keys(given).length > 0, "grants nothing")
    .refine(
      (given) => !READ_ALONE.some((name) => given[name as keyof typeof given] === "write"),
      "to write administration or repository_hooks makes access that outlives the token",
    ),
});

export type GithubAccess = z.output<typeof githubAccess>;

/** What one token may do: every permission at every repository. None twice; sorted. */
export interface GithubScope {
  readonly repositories: readonly string[];
  readonly repository_ids: readonly number[];
  readonly permissions: Readonly<Record<string, Level>>;
}

/** `admin` is more than any access asks for; GitHub may say it of what it has granted. */
export type Level = "read" | "write" | "admin";

/** Whether a level is at least as much as another. */
export function covers(has: unknown, asked: Level): boolean {
  const levels: readonly unknown[] = ["read", "write", "admin"];
  return levels.indexOf(has) >= levels.indexOf(asked);
}

/**
 * The one token that grants all these accesses and nothing beyond them. GitHub applies each permission of a token to each of
 * its repositories, so accesses that differ from one repository to another do not go into one: throws `code` with what to do.
 */
export function scopeOf(accesses: readonly GithubAccess[], code: "target_rejected" | "target_refused"): GithubScope {
  const all = new Map<string, Level>();
  // Names are the same in any case, and are sent as they were given.
  const byRepository = new Map<
    string | number,
    { readonly given: string | number; readonly has: Map<string, Level> }
  >();
  for (const { repositories, permissions } of accesses) {
    for (const given of repositories) {
      const key = typeof given === "string" ? given.toLowerCase() : given;
      const here = byRepository.get(key) ?? { given, has: new Map<string, Level>() };
      byRepository.set(key, here);
      for (const [permission, level] of Object.entries(permissions)) {
        for (const into of [here.has, all]) if (!covers(into.get(permission), level)) into.set(permission, level);
      }
    }
  }
  for (const { has } of byRepository.values()) {
    if ([...all].some(([permission, level]) => has.get(permission) !== level))
      throw new MayflyError(
        code,
        "a token of GitHub has each permission at each of its repositories, and here they differ: " +
          "ask for one credential (register one target) for each set of permissions",
      );
  }
  const names = [...byRepository.values()].map(({ given }) => given);
  const repositories = names.filter((name) => typeof name === "string").sort();
  const repository_ids = names.filter((name) => typeof name === "number").sort((a, b) => a - b);
  if (repositories.length > 0 && repository_ids.length > 0)
    throw new MayflyError(code, "name the repositories of one target all by name or all by id");
  if (names.length > MAX_REPOSITORIES)
    throw new MayflyError(code, `a token of GitHub is for at most ${MAX_REPOSITORIES} repositories`);
  // GitHub adds it to every token that has a permission at a repository.
  if (!all.has("metadata")) all.set("metadata", "read");
  return {
    repositories,
    repository_ids,
    permissions: Object.fromEntries([...all].sort(([a], [b]) => (a < b ? -1 : 1))),
  };
}

/** Whether what GitHub says that a token may do is nothing beyond this. What it does not say is taken for too much. */
export function isWithin(told: Readonly<Record<string, unknown>>, scope: GithubScope): boolean {
  const { repositories, permissions, repository_selection: selection } = told;
  if (selection !== "selected" || !Array.isArray(repositories) || !isRecord(permissions)) return false;
  const names = new Set(scope.repositories.map((name) => name.toLowerCase()));
  return (
    repositories.every(
      (one: unknown) =>
        isRecord(one) && (names.has(String(one.name).toLowerCase()) || scope.repository_ids.includes(Number(one.id))),
    ) &&
    Object.entries(permissions).every(([name, level]) => {
      const asked = scope.permissions[name];
      return asked !== undefined && covers(asked, level as Level) && covers(level, "read");
    })
  );
}

/** Whether a value that came from outside is an object. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
