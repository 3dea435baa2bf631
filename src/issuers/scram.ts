import { createHash, createHmac, pbkdf2, randomBytes } from "node:crypto";
import { promisify } from "node:util";
import type { Secret } from "../lib/secret.ts";

/** RFC 7677 §4: at least 4,096, and what PostgreSQL itself uses. More buys nothing for a random 256-bit password. */
const ITERATIONS = 4096;

/**
 * The SCRAM-SHA-256 verifier that PostgreSQL stores for a password (RFC 5803, RFC 7677). PostgreSQL takes it in
 * place of the password, so the password itself never crosses the wire, and a failing statement cannot log it.
 * The password must be ASCII: then SASLprep (RFC 4013) leaves it as it is.
 */
export async function scramVerifier(password: Secret, salt: Buffer = randomBytes(16)): Promise<string> {
  // promisify() picks the thread pool: the event loop keeps serving while the 4,096 rounds run.
  const salted = await promisify(pbkdf2)(password.reveal(), salt, ITERATIONS, 32, "sha256");
  const storedKey = createHash("sha256").update(hmac(salted, "Client Key")).digest("base64");
  const serverKey = hmac(salted, "Server Key").toString("base64");
  return `SCRAM-SHA-256$${ITERATIONS}:${salt.toString("base64")}$${storedKey}:${serverKey}`;
}

function hmac(key: Buffer, message: string): Buffer {
  return createHmac("sha256", key).update(message).digest();
}
