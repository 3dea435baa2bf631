import { randomBytes } from "node:crypto";
import { link, open, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { ensureDataDirectory } from "../lib/data-directory.ts";
import type { Secret } from "../lib/secret.ts";

/**
 * The 32 bytes that seal everything at rest. With an embedded database and none configured, they are made once and kept
 * in `<dataDir>/kek`, mode 0600: whoever has the data directory then has both, which is what a first try is worth.
 * Processes that start together get the same key.
 */
export async function loadKeyEncryptionKey(configured: Secret | undefined, dataDir: string): Promise<Uint8Array> {
  const text = configured?.reveal() ?? (await keptKey(dataDir));
  const key = Buffer.from(text, "base64url");
  if (key.byteLength !== 32) throw new Error(`${join(dataDir, "kek")} does not hold 32 bytes in base64url`);
  return key;
}

async function keptKey(dataDir: string): Promise<string> {
  const path = join(dataDir, "kek");
  await ensureDataDirectory(dataDir);
  const unfinished = `${path}.${randomBytes(6).toString("hex")}`;
  const file = await open(unfinished, "wx", 0o600);
  try {
    await file.writeFile(randomBytes(32).toString("base64url"));
    await file.sync();
    // Unlike a rename, a link never replaces: of several processes the first one's key stays.
    await link(unfinished, path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
  } finally {
    await file.close();
    await rm(unfinished, { force: true });
  }
  const { mode } = await stat(path);
  if (process.platform !== "win32" && (mode & 0o077) !== 0) {
    throw new Error(`${path} can be read by other users of this machine: chmod 600 it`);
  }
  return (await readFile(path, "utf8")).trim();
}
