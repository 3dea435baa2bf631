import { readFile } from "node:fs/promises";
import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { Secret } from "../lib/secret.ts";
import { isLoopback } from "./target-url.ts";

/** Where a far side answers: scheme, host and port, and nothing else. `https` only; `http` for a loopback host. */
export const targetOrigin = z
  .string()
  .max(300)
  .regex(
    /^https?:\/\/(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\/?$/,
    "a scheme, a host and a port, and no path",
  )
  .refine((text) => {
    if (!URL.canParse(text)) return false;
    const { protocol, hostname } = new URL(text);
    return protocol === "https:" || isLoopback(hostname);
  }, "https, or http to a loopback host")
  .transform((text) => new URL(text).origin);

const MOUNTED = "/var/run/secrets/mayfly";

/**
 * The token that the operator has mounted for this far side, in a file named after its host (`<host>` or `<host>_<port>`), so
 * that no target can have it sent elsewhere. Read anew each time, as it is rotated in place. `target_rejected` when there is
 * none.
 */
export async function readMountedToken(origin: string, directory = MOUNTED): Promise<Secret> {
  const file = `${directory}/${new URL(origin).host.replaceAll(/[[\]]/g, "").replaceAll(":", "_")}`;
  const text = await readFile(file, "utf8").catch(() => "");
  const token = text.trim();
  if (!/^[\x21-\x7e]{1,16384}$/.test(token))
    throw new MayflyError("target_rejected", `no token was configured, and there is none in ${file}`);
  return new Secret(token);
}
