import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { isAlive, withDirectoryLock } from "../../src/db/directory-lock.ts";
import { testDirectory } from "../support/directory.ts";
import { startNode } from "../support/node.ts";

const lockModule = new URL("../../dist/db/directory-lock.js", import.meta.url).href;

test("of processes that want the lock at once, one at a time works: no increment of a counter is lost", async () => {
  await using directory = await testDirectory();
  const counter = join(directory.path, "counter");
  await writeFile(counter, "0");
  const script = `
    import { readFile, writeFile } from "node:fs/promises";
    const { withDirectoryLock } = await import(${JSON.stringify(lockModule)});
    for (let i = 0; i < 10; i++) {
      await withDirectoryLock(${JSON.stringify(directory.path)}, 50_000, async () => {
        await writeFile(${JSON.stringify(counter)}, String(Number(await readFile(${JSON.stringify(counter)}, "utf8")) + 1));
      });
    }
    console.log("{}");`;
  const workers = await Promise.all(Array.from({ length: 4 }, () => startNode(script)));
  await Promise.all(workers.map((worker) => worker.line()));

  expect(await readFile(counter, "utf8")).toBe("40");
  expect(await readdir(join(directory.path, "lock"))).toEqual([]);
});

test("a holder that is killed frees the lock", async () => {
  await using directory = await testDirectory();
  await using holder = await startNode(holding(directory.path));
  await holder.line();
  await expect(withDirectoryLock(directory.path, 100, async () => "taken")).rejects.toThrow(
    `held by process ${holder.pid}`,
  );

  await holder.kill();
  expect(await withDirectoryLock(directory.path, 100, async () => "taken")).toBe("taken");
});

if (process.platform === "linux") {
  test("a claim whose process id now is another process's does not hold the lock", async () => {
    await using directory = await testDirectory();
    await mkdir(join(directory.path, "lock"));
    // Our parent is alive, and did not start at tick 1 after boot.
    await writeFile(join(directory.path, "lock", `${process.ppid}.1.abcdef`), "");
    expect(isAlive(process.ppid)).toBe(true);
    expect(await withDirectoryLock(directory.path, 100, async () => "taken")).toBe("taken");
  });
}

test("work that fails frees the lock and its error is the caller's", async () => {
  await using directory = await testDirectory();
  await expect(withDirectoryLock(directory.path, 100, () => Promise.reject(new Error("the work")))).rejects.toThrow(
    "the work",
  );
  expect(await withDirectoryLock(directory.path, 100, async () => "taken")).toBe("taken");
});

function holding(directory: string): string {
  return `
    const { withDirectoryLock } = await import(${JSON.stringify(lockModule)});
    await withDirectoryLock(${JSON.stringify(directory)}, 50_000, async () => {
      console.log("{}");
      setInterval(() => {}, 1000);
      await new Promise(() => {});
    });`;
}
