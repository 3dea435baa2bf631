import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

/**
 * Runs `work` while no other process runs its own under the same directory. A holder that was killed does not block
 * the next one. Rejects, naming the holder, when the lock is not free within `timeoutMs`.
 *
 * Every process has a claim file of its own and holds the lock when it sees no other live claim. Deleting the claim of
 * a dead process cannot hurt a living one, which is what one shared lock file cannot promise: two processes that find
 * it stale delete it one after the other, and the second deletes the lock that the first has just taken.
 */
export async function withDirectoryLock<Result>(
  directory: string,
  timeoutMs: number,
  work: () => Promise<Result>,
): Promise<Result> {
  const claims = join(directory, "lock");
  const claim = `${process.pid}.${await startOf(process.pid)}.${randomBytes(6).toString("hex")}`;
  const deadline = performance.now() + timeoutMs;
  await mkdir(claims, { recursive: true, mode: 0o700 });
  try {
    await writeFile(join(claims, claim), "", { flag: "wx", mode: 0o600 });
    for (;;) {
      const others = await liveClaims(claims, claim);
      if (others.length === 0) break;
      if (performance.now() > deadline) {
        throw new Error(`${directory} is held by process ${others[0]?.split(".")[0]} (see ${claims}) for too long`);
      }
      // Of several that wait, the smallest name keeps its claim and the others step back, so somebody gets it.
      const smallest = others.every((other) => claim < other);
      if (!smallest) await rm(join(claims, claim), { force: true });
      await delay(20);
      if (!smallest) await writeFile(join(claims, claim), "", { mode: 0o600 });
    }
    return await work();
  } finally {
    await rm(join(claims, claim), { force: true });
  }
}

async function liveClaims(claims: string, own: string): Promise<string[]> {
  const live: string[] = [];
  for (const name of await readdir(claims)) {
    if (name === own) continue;
    const [pid, started] = name.split(".");
    if (isAlive(Number(pid)) && (await startOf(Number(pid))) === started) live.push(name);
    else await rm(join(claims, name), { force: true });
  }
  return live;
}

/** Whether a process with this id exists. It may be another one than the one that was meant: ids are used again. */
export function isAlive(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}

// In a container a restarted Mayfly often has the very id of the one that died, so an id alone does not name a process.
async function startOf(pid: number): Promise<string> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8");
    // Field 22 of proc(5); field 2 is the name in parentheses and may hold spaces.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "0";
  } catch {
    return "0";
  }
}
