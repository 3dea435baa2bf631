import { chmod, mkdir } from "node:fs/promises";

/**
 * Makes a directory, with its parents, that only this user can list. What is secret in it has mode 0600 of its own:
 * when Mayfly is root the directory can be passed through, because the embedded PostgreSQL inside cannot be root.
 */
export async function ensureDataDirectory(path: string): Promise<void> {
  const mode = process.getuid?.() === 0 ? 0o711 : 0o700;
  const made = await mkdir(path, { recursive: true, mode });
  // Only what was made here: how an existing directory is guarded is its owner's decision. The umask may have taken bits.
  if (made !== undefined) await chmod(path, mode);
}
