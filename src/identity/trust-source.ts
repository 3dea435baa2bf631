import { createPublicKey, type JsonWebKey, type X509Certificate } from "node:crypto";
import { z } from "zod";
import { reusableCondition } from "./broad-claims.ts";
import { anchorProblem, judgeAuthority } from "./bundle-authorities.ts";
import { claimConditionSchema, identifyingConditionsSchema, isClaimName } from "./claim-conditions.ts";
import { parseFetchUrl } from "./fetch-url.ts";
import { MAX_KEYS } from "./key-set.ts";
import { certificateOfBase64, certificateOfPem } from "./pem.ts";
import { judgeJwk, type KeyUse, type SignatureAlgorithm, signatureAlgorithms } from "./public-jwk.ts";
import { isTrustDomainIssuer } from "./spiffe-id.ts";

/** The longest a token may live or be old anywhere in Mayfly, in seconds. */
export const MAX_TOKEN_AGE_SECONDS = 86_400;

/** JWT-SVID §3.1: RS, ES and PS of 256, 384 and 512. No EdDSA. */
const spiffeAlgorithms = signatureAlgorithms.filter((name) => /^(RS|ES|PS)/.test(name));

const oidcDefaults: SignatureAlgorithm[] = ["ES256", "Ed25519", "EdDSA", "RS256", "PS256"];
const spiffeDefaults: SignatureAlgorithm[] = ["ES256", "ES384", "RS256", "PS256"];

// A schema cannot know whether the operator allows loopback http, so it lets the spelling pass; the fetch refuses it.
const fetchUrl = z.string().superRefine((text, context) => {
  const url = parseFetchUrl(text, { allowLoopbackHttp: true });
  if (typeof url === "string") context.addIssue({ code: "custom", message: url });
});

/** Microsoft's names for "any tenant". No token carries one, and what it would stand for is everybody. */
function isOneTenant(issuer: string): boolean {
  return !/[{}]|%7b|^https:\/\/login\.microsoftonline\.com\/(common|organizations|consumers)(\/|$)/i.test(issuer);
}
const ONE_TENANT = "this stands for every tenant: register your own, like https://sts.windows.net/<tenant id>/";

/** An issuer that can be looked up: compared byte for byte, so only the spelling that URL parsers agree on is taken. */
const issuerUrl = fetchUrl
  .max(512)
  .refine(isOneTenant, ONE_TENANT)
  .refine((text) => {
    if (text.includes("?") || !URL.canParse(text)) return false;
    const { href } = new URL(text);
    return text === href || `${text}/` === href;
  }, "an issuer is a URL in its normal spelling without query and fragment");

/** An issuer whose keys are found elsewhere: any name that its tokens carry in `iss`, except a SPIFFE one. */
const issuerName = z
  .string()
  .max(512)
  .regex(/^[\x21-\x7e]+$/, "an issuer is printable ASCII without spaces")
  .refine(isOneTenant, ONE_TENANT)
  .refine((text) => !/^spiffe:/i.test(text), "a SPIFFE trust domain is a trust source of kind spiffe");

const trustDomain = z
  .string()
  .refine(isTrustDomainIssuer, "the issuer of kind spiffe is spiffe://<trust domain>, lower-case");

/** Roles that a claim mapping can give. `agent` is not one: agents come from identities, one by one. */
const mappableRoles = ["orchestrator", "approver", "auditor", "admin", "operator"] as const;

const roleMapping = z.strictObject({
  when: identifyingConditionsSchema.superRefine((conditions, context) => {
    for (const [index, condition] of conditions.entries()) {
      const message = reusableCondition(condition);
      if (message !== undefined) context.addIssue({ code: "custom", path: [index], message });
    }
  }),
  roles: z.array(z.enum(mappableRoles)).min(1).max(mappableRoles.length),
});

/** What every kind of trust source says about those whom it vouches for. */
const everybody = {
  /** What each of its tokens or certificates must meet besides. */
  conditions: z.array(claimConditionSchema).max(20).default([]),
  role_mappings: z.array(roleMapping).max(50).default([]),
};

/** What every kind that vouches by tokens says about them. */
function common(defaults: { readonly singleUse: boolean }) {
  return {
    ...everybody,
    max_token_age_seconds: z.int().min(1).max(MAX_TOKEN_AGE_SECONDS).default(3600),
    required_claims: z.array(z.string().max(256).refine(isClaimName, "not a claim name")).max(20).default([]),
    /** Whether `jti` is required and may be used once. */
    single_use: z.boolean().default(defaults.singleUse),
    /** How its tokens are bound to their holder (`cnf`, RFC 7800). */
    binding: z.enum(["bearer", "dpop", "mtls"]).default("bearer"),
  };
}

/** How long keys that cannot be read again are still believed. */
const keyLife = { keys_max_age_seconds: z.int().min(300).max(604_800).default(86_400) };

/**
 * Whether its access tokens for Mayfly (RFC 9068, `typ` `at+jwt`) say who the caller is, as a Bearer; as a client assertion they
 * never do. What their `scope` allows elsewhere means nothing here.
 */
const accessTokens = { access_tokens: z.boolean().default(false) };

function algorithms(allowed: readonly SignatureAlgorithm[], defaults: SignatureAlgorithm[]) {
  return z.array(z.enum(allowed)).min(1).max(allowed.length).default(defaults);
}

/** A JWK Set stored with the source: every key must be one that we would use, so that a mistake shows at once. */
function pinnedKeys(use: KeyUse) {
  const jwks = z.looseObject({
    keys: z
      .array(z.looseObject({ kty: z.string() }))
      .min(1)
      .max(MAX_KEYS),
  });
  return jwks.superRefine(({ keys }, context) => {
    let usable = 0;
    for (const [index, key] of keys.entries()) {
      const verdict = judgeJwk(key, use);
      if (verdict.kind === "usable" || (use === "jwt-svid" && judgeAuthority(key).kind === "usable")) usable += 1;
      // A SPIFFE bundle rightly holds X.509 authorities too; anything else in a pinned set is a mistake.
      else if (verdict.kind === "refused" || use === "sig") {
        context.addIssue({ code: "custom", path: ["keys", index], message: `this key cannot be used: ${verdict.why}` });
      }
    }
    if (usable === 0) context.addIssue({ code: "custom", path: ["keys"], message: "no key of this set can be used" });
  });
}

const oidc = z.strictObject({
  kind: z.literal("oidc"),
  /** Its discovery document is at `<issuer>/.well-known/openid-configuration`. */
  issuer: issuerUrl,
  algorithms: algorithms(signatureAlgorithms, oidcDefaults),
  ...accessTokens,
  ...keyLife,
  ...common({ singleUse: false }),
});

const jwksUri = z.strictObject({
  kind: z.literal("jwks_uri"),
  issuer: issuerName,
  jwks_uri: fetchUrl,
  algorithms: algorithms(signatureAlgorithms, oidcDefaults),
  ...accessTokens,
  ...keyLife,
  ...common({ singleUse: false }),
});

const keySet = z.strictObject({
  kind: z.literal("key_set"),
  issuer: issuerName,
  jwks: pinnedKeys("sig"),
  algorithms: algorithms(signatureAlgorithms, oidcDefaults),
  ...common({ singleUse: true }),
});

const spiffe = z
  .strictObject({
    kind: z.literal("spiffe"),
    issuer: trustDomain,
    /** The bundle itself, or where it is published and how that is authenticated. Never derived from the issuer (SPIFFE Federation §7.2). */
    bundle: pinnedKeys("jwt-svid").optional(),
    bundle_url: fetchUrl.optional(),
    bundle_profile: z.literal("https_web", "https_web is the one profile that is supported").optional(),
    algorithms: algorithms(spiffeAlgorithms, spiffeDefaults),
    ...keyLife,
    ...common({ singleUse: false }),
  })
  .refine(({ bundle, bundle_url: url }) => (bundle === undefined) !== (url === undefined), {
    path: ["bundle_url"],
    message: "give either bundle or bundle_url",
  })
  .refine(({ bundle_profile: profile, bundle_url: url }) => (profile === undefined) === (url === undefined), {
    path: ["bundle_profile"],
    message: "bundle_profile says how bundle_url is authenticated: https_web",
  });

const pemOrX5c = {
  /** PEM texts of one certificate each. */
  certificates: z.array(z.string().max(16_384)).min(1).max(MAX_KEYS),
};

/** Clients are told by certificates of these authorities (`tls_client_auth`, RFC 8705 §2.1). */
const x509Ca = z.strictObject({
  kind: z.literal("x509_ca"),
  issuer: issuerName,
  /** The trust anchors: these and no others, and nothing that the machine trusts. */
  certificates: pemOrX5c.certificates.superRefine((texts, context) => {
    for (const [index, text] of texts.entries()) {
      const certificate = certificateOfPem(text);
      const problem = certificate === undefined ? "is not one certificate in PEM" : anchorProblem(certificate);
      if (problem !== undefined) context.addIssue({ code: "custom", path: [index], message: problem });
    }
  }),
  ...everybody,
});

/** A client is told by its very certificate (`self_signed_tls_client_auth`, RFC 8705 §2.2). `issuer` is its `client_id`. */
const selfSigned = z
  .strictObject({
    kind: z.literal("self_signed"),
    issuer: issuerName,
    certificates: pemOrX5c.certificates
      .superRefine((texts, context) => {
        for (const [index, text] of texts.entries())
          if (certificateOfPem(text) === undefined)
            context.addIssue({ code: "custom", path: [index], message: "is not one certificate in PEM" });
      })
      .optional(),
    /** As a JWK Set, each key with its certificate in `x5c`. */
    jwks: pinnedKeys("sig")
      .superRefine(({ keys }, context) => {
        for (const [index, key] of keys.entries())
          if (certificateOfJwk(key) === undefined)
            context.addIssue({
              code: "custom",
              path: ["keys", index],
              message: "this key has no x5c whose first certificate is of this very key",
            });
      })
      .optional(),
    ...everybody,
  })
  .refine(({ certificates, jwks }) => (certificates === undefined) !== (jwks === undefined), {
    path: ["certificates"],
    message: "give either certificates or jwks",
  });

/** The certificate of a JWK (RFC 7517 §4.7): the first of its `x5c`, if it is of the same key. */
function certificateOfJwk(jwk: Readonly<Record<string, unknown>>): X509Certificate | undefined {
  const [first] = Array.isArray(jwk["x5c"]) ? (jwk["x5c"] as unknown[]) : [];
  const certificate = typeof first === "string" ? certificateOfBase64(first) : undefined;
  if (certificate === undefined) return undefined;
  try {
    const stated = createPublicKey({ key: jwk as JsonWebKey, format: "jwk" });
    return stated.equals(certificate.publicKey) ? certificate : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Where proof of identity comes from, as an admin writes it and as it is stored (snake_case, defaults filled in).
 * Unknown members are refused: a misspelt restriction must not be silently absent. What it cannot know the caller
 * checks: that `operator` is mapped in the system tenant alone, and that the issuer is not one of Mayfly's own.
 */
export const trustSourceSchema = z.discriminatedUnion("kind", [oidc, jwksUri, keySet, spiffe, x509Ca, selfSigned]);
export type TrustSource = z.output<typeof trustSourceSchema>;

/** The trust sources that vouch by tokens; those of kind `spiffe` by certificates too. */
export const tokenSourceSchema = z.discriminatedUnion("kind", [oidc, jwksUri, keySet, spiffe]);
export type TokenSource = z.output<typeof tokenSourceSchema>;
/** A trust source that vouches by certificates alone. */
export type CertificateSource = Exclude<TrustSource, TokenSource>;

/** The certificates of a source that vouches by them: its anchors, or its clients' own. */
export function certificatesOf(source: CertificateSource): readonly X509Certificate[] {
  const known = parsed.get(source);
  if (known !== undefined) return known;
  const { certificates = [] } = source;
  const jwks = source.kind === "self_signed" ? source.jwks : undefined;
  const them = [
    ...certificates.flatMap((text) => certificateOfPem(text) ?? []),
    ...(jwks?.keys ?? []).flatMap((key) => certificateOfJwk(key) ?? []),
  ];
  parsed.set(source, them);
  return them;
}

const parsed = new WeakMap<CertificateSource, readonly X509Certificate[]>();

/** Whether a trust source vouches by tokens. */
export function vouchesByTokens(source: TrustSource): source is TokenSource {
  return source.kind !== "x509_ca" && source.kind !== "self_signed";
}
