import { randomUUID } from "node:crypto";
import { z } from "zod";
import { keyPurposes } from "../keys/key-purpose.ts";
import type { SigningKeys } from "../keys/signing-keys.ts";
import type { Id } from "../lib/ids.ts";
import type { Role } from "./principal.ts";

/** The JOSE `typ` of bootstrap tokens: no other kind of token is taken for one, nor one for another kind. */
export const ADMIN_TOKEN_TYP = keyPurposes.admin_token.typ;
const ADMIN_TOKEN_SECONDS = keyPurposes.admin_token.longestSeconds;

const claims = z.strictObject({
  iss: z.string(),
  aud: z.string(),
  sub: z.string().max(256),
  jti: z.string(),
  iat: z.int(),
  exp: z.int(),
  roles: z.array(z.enum(["admin", "auditor", "approver", "orchestrator", "operator"])).min(1),
});

/**
 * A token for the first steps, for whoever has the host (database and key encryption key): `mayfly admin-token`.
 * It lives a quarter of an hour and cannot be renewed; everything after the first steps uses a trust source.
 */
export async function signAdminToken(
  keys: SigningKeys,
  tenant: { readonly id: Id<"tenant">; readonly issuer: string },
  subject: string,
  roles: readonly Role[],
  nowMs: number,
): Promise<string> {
  const iat = Math.floor(nowMs / 1000);
  const signer = await keys.signer(tenant.id, "admin_token");
  return signer.sign(ADMIN_TOKEN_TYP, {
    iss: tenant.issuer,
    aud: tenant.issuer,
    sub: subject,
    jti: randomUUID(),
    iat,
    exp: iat + ADMIN_TOKEN_SECONDS,
    roles,
  });
}

/**
 * The subject and roles of a bootstrap token that is valid at this generation of the registry; undefined for anything
 * else. No row stands behind such a token, so that its key is still ours is all that there is to know.
 */
export async function verifyAdminToken(
  keys: SigningKeys,
  tenant: { readonly id: Id<"tenant">; readonly issuer: string; readonly generation: number },
  token: string,
  nowMs: number,
): Promise<{ readonly subject: string; readonly roles: readonly Role[] } | undefined> {
  const parsed = claims.safeParse(await keys.verify(tenant.id, token, ADMIN_TOKEN_TYP, tenant.generation));
  if (!parsed.success) return undefined;
  const { iss, aud, sub, iat, exp, roles } = parsed.data;
  const now = nowMs / 1000;
  if (iss !== tenant.issuer || aud !== tenant.issuer) return undefined;
  if (exp <= now || iat > now + 10 || exp - iat > ADMIN_TOKEN_SECONDS) return undefined;
  return { subject: `mayfly-cli|${sub}`, roles };
}
