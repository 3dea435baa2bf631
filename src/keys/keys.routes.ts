import { z } from "zod";
import type { Db } from "../db/database.ts";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { notFound } from "../lib/errors.ts";
import type { SigningKeys } from "./signing-keys.ts";

/** The public keys of each tenant's issuer. */
export function keyEndpoints({ db, keys }: { db: Db; keys: SigningKeys }): Endpoint[] {
  return [
    endpoint({
      method: "get",
      path: "/t/{tenant}/.well-known/jwks.json",
      summary: "The keys that verify this tenant's tokens (RFC 7517)",
      tag: "oauth",
      allow: "public",
      params: z.strictObject({ tenant: z.string().max(63) }),
      replies: { 200: z.strictObject({ keys: z.array(z.looseObject({ kid: z.string(), kty: z.string() })) }) },
      async handle({ params }) {
        const [tenant] = await db.callAcrossTenants<{ id: string }>("tenant_by_name", [params.tenant]);
        if (tenant === undefined) throw notFound();
        return {
          status: 200,
          body: await keys.jwks(tenant.id),
          headers: { "content-type": "application/jwk-set+json", "cache-control": "public, max-age=300" },
        };
      },
    }),
  ];
}
