import { randomInt } from "node:crypto";
import { z } from "zod";

/**
 * The prefix that tells what this target makes from all else at the far side. Random unless given, so parse it once and store it.
 * `longest`: characters, where names are short.
 */
export function deploymentPrefix(longest = 8) {
  return z
    .string()
    .regex(new RegExp(`^[a-z0-9]{1,${longest}}$`))
    .optional()
    .transform((given) => given ?? Array.from({ length: longest }, () => randomInt(36).toString(36)).join(""));
}
