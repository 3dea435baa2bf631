import { createPrivateKey } from "node:crypto";
import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { targetUrl } from "./target-url.ts";

const GRANTS = ["client_credentials", "refresh_token", "token_exchange"] as const;
const AUTHENTICATIONS = ["private_key_jwt", "client_secret_basic", "client_secret_post"] as const;

/** Tokens of any form, as they fit into a header. */
export const tokenText = z.string().regex(/^[\x21-\x7e]{1,16384}$/);
const secretText = z.string().regex(/^[\x20-\x7e]{1,4096}$/);

/** The authorization server, how we are known there, and what tokens are asked with. */
export const oauthConfig = z
  .strictObject({
    /** As the server's own metadata spells it, to the byte. */
    issuer: targetUrl(),
    client_id: z.string().regex(/^[\x21-\x7e]{1,256}$/),
    client_authentication: z.enum(AUTHENTICATIONS),
    client_secret: secretText.optional(),
    /** PEM, PKCS#8: P-256 (ES256) or RSA of 2048 bits or more (RS256). */
    private_key: z.string().max(16_384).refine(isSigningKey, "a P-256 or RSA private key in PEM (PKCS#8)").optional(),
    /** The `kid` under which the server knows the key. */
    key_id: z
      .string()
      .regex(/^[\x21-\x7e]{1,256}$/)
      .optional(),
    grant: z.enum(GRANTS),
    /** For the grant of this name. A server that exchanges it for another at each use is refused: the other could not be kept. */
    refresh_token: tokenText.optional(),
    /** For `token_exchange` (RFC 8693): whom the tokens speak for. */
    subject_token: tokenText.optional(),
    subject_token_type: z
      .enum(["access_token", "jwt", "id_token"])
      .describe("urn:ietf:params:oauth:token-type:…; access_token unless given.")
      .optional(),
    /** `none` is for servers whose tokens nobody can take back: credentials then live until their own end. */
    revocation: z.enum(["required", "none"]).default("required"),
    /** An API that takes the tokens: asked with GET whether a token still works, instead of the server's introspection. */
    probe_url: targetUrl().optional(),
    /** Scheme, host and port beside the issuer's own where the server's endpoints may be. */
    endpoint_origins: z
      .array(
        targetUrl().refine((url) => URL.canParse(url) && new URL(url).origin === url, "scheme, host and port alone"),
      )
      .min(1)
      .max(4)
      .optional(),
    /** The longest that this server lets such a token live. A token that would live longer is taken back. */
    max_token_seconds: z.int().min(1).max(86_400),
    /** PEM. Absent: the well-known authorities. */
    ca: z.string().startsWith("-----BEGIN CERTIFICATE-----").max(65_536).optional(),
  })
  .superRefine((given, context) => {
    const needed = {
      client_secret: given.client_authentication !== "private_key_jwt",
      private_key: given.client_authentication === "private_key_jwt",
      refresh_token: given.grant === "refresh_token",
      subject_token: given.grant === "token_exchange",
    };
    for (const [name, wanted] of Object.entries(needed) as [keyof typeof needed, boolean][]) {
      if ((given[name] !== undefined) === wanted) continue;
      const message = wanted
        ? "is needed for this authentication or grant"
        : "is of no use for this authentication or grant";
      context.addIssue({ code: "custom", path: [name], message });
    }
  });

export type OauthConfig = z.output<typeof oauthConfig>;

/** What a token may do, at which API (RFC 8707 `resource`, or `audience` where the server has its own word for it). */
export const oauthAccess = z.strictObject({
  scope: z
    .array(
      z
        .string()
        .regex(/^[\x21\x23-\x5b\x5d-\x7e]{1,128}$/)
        .refine((name) => name !== "offline_access" && name !== "openid", "it asks for more than an access token"),
    )
    .min(1)
    .max(64),
  resource: z
    .string()
    .regex(/^[a-z][a-z0-9+.-]{1,31}:[A-Za-z0-9._~:/?@!$&'()*+,;=%-]{1,512}$/, "an absolute URI without a fragment")
    .optional(),
  audience: z
    .string()
    .regex(/^[\x21-\x7e]{1,512}$/)
    .optional(),
});

export type OauthAccess = z.output<typeof oauthAccess>;

/** The one token that grants all these accesses: its scopes in order, its API. */
export interface AskedToken {
  readonly scope: readonly string[];
  readonly resource: string | undefined;
  readonly audience: string | undefined;
}

/**
 * Merges accesses. A token has each of its scopes at each of its APIs, so accesses to several APIs do not go into one: throws
 * `code` with what to do.
 */
export function askedToken(accesses: readonly OauthAccess[], code: "target_rejected" | "target_refused"): AskedToken {
  const [first] = accesses;
  if (accesses.some(({ resource, audience }) => resource !== first?.resource || audience !== first?.audience))
    throw new MayflyError(
      code,
      "a token has each of its scopes at each of its resources, and here they differ: " +
        "ask for one credential (register one target) for each resource and audience",
    );
  const scope = [...new Set(accesses.flatMap((access) => access.scope))].sort();
  return { scope, resource: first?.resource, audience: first?.audience };
}

function isSigningKey(pem: string): boolean {
  try {
    const { asymmetricKeyType: type, asymmetricKeyDetails: details } = createPrivateKey(pem);
    if (!pem.trimStart().startsWith("-----BEGIN PRIVATE KEY-----")) return false;
    return type === "rsa"
      ? (details?.modulusLength ?? 0) >= 2048
      : type === "ec" && details?.namedCurve === "prime256v1";
  } catch {
    return false;
  }
}
