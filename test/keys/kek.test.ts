import { chmod, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { loadKeyEncryptionKey } from "../../src/keys/kek.ts";
import { Secret } from "../../src/lib/secret.ts";
import { testDirectory } from "../support/directory.ts";

test("processes that start together get one key, kept for the next start and readable by its owner alone", async () => {
  await using directory = await testDirectory();
  const dataDir = join(directory.path, "data");
  const keys = await Promise.all(Array.from({ length: 8 }, () => loadKeyEncryptionKey(undefined, dataDir)));
  const texts = new Set(
    [...keys, await loadKeyEncryptionKey(undefined, dataDir)].map((key) => Buffer.from(key).toString("hex")),
  );
  expect(texts.size).toBe(1);
  expect(keys[0]).toHaveLength(32);
  expect(await readdir(dataDir)).toEqual(["kek"]);
  expect((await stat(join(dataDir, "kek"))).mode & 0o777).toBe(0o600);
});

test("two deployments get two keys", async () => {
  await using a = await testDirectory();
  await using b = await testDirectory();
  expect(await loadKeyEncryptionKey(undefined, a.path)).not.toEqual(await loadKeyEncryptionKey(undefined, b.path));
});

test("a configured key is used and nothing is kept", async () => {
  await using directory = await testDirectory();
  const key = Buffer.alloc(32, 9);
  const configured = new Secret(key.toString("base64url"));
  expect(Buffer.from(await loadKeyEncryptionKey(configured, directory.path)).equals(key)).toBe(true);
  expect(await readdir(directory.path)).toEqual([]);
});

test("a kept key that others can read is refused, with what to do", async () => {
  await using directory = await testDirectory();
  await loadKeyEncryptionKey(undefined, directory.path);
  await chmod(join(directory.path, "kek"), 0o640);
  await expect(loadKeyEncryptionKey(undefined, directory.path)).rejects.toThrow(
    /can be read by other users.*chmod 600/,
  );
});

test("a kept key that is damaged is refused, never replaced and never printed", async () => {
  await using directory = await testDirectory();
  await writeFile(join(directory.path, "kek"), "c2hvcnQ", { mode: 0o600 });
  await expect(loadKeyEncryptionKey(undefined, directory.path)).rejects.toThrow(
    /^(?!.*c2hvcnQ).*does not hold 32 bytes/,
  );
  expect(await readFile(join(directory.path, "kek"), "utf8")).toBe("c2hvcnQ");
});
