import { z } from "zod";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import type { Id } from "../lib/ids.ts";
import { idSchema } from "../lib/wire.ts";
import { type CollectionDeps, collectionRoutes } from "../registry/collection.routes.ts";
import { atLeastOne, thingName } from "../registry/names.ts";
import { changedSettings, changeTrustSourceState, checkTrustSource } from "./change-trust-source.ts";
import type { SafeFetch } from "./safe-fetch.ts";
import { type TrustSource, trustSourceSchema } from "./trust-source.ts";
import { type KeyCheck, tryKeys } from "./try-keys.ts";

export interface TrustSourceDeps extends CollectionDeps {
  /** The tenant's issuer string: the one audience that its callers' tokens carry. */
  readonly issuerUrl: (tenantName: string) => string;
  readonly fetchJson: SafeFetch;
}

const [oidc, jwksUri, keySet, spiffe, x509Ca, selfSigned] = trustSourceSchema.options;
const named = { name: thingName };
const create = z.discriminatedUnion("kind", [
  oidc.safeExtend(named),
  jwksUri.safeExtend(named),
  keySet.safeExtend(named),
  spiffe.safeExtend(named),
  x509Ca.safeExtend(named),
  selfSigned.safeExtend(named),
]);

const kinds = ["oidc", "jwks_uri", "key_set", "spiffe", "x509_ca", "self_signed"] as const;
const states = ["active", "disabled"] as const;

/** Every setting of every kind, each on its own and without its default; the kind's schema judges them together. */
const {
  kind: _,
  issuer: __,
  ...everySetting
} = {
  ...selfSigned.shape,
  ...spiffe.shape,
  ...keySet.shape,
  ...jwksUri.shape,
  ...oidc.shape,
};
const settings = Object.fromEntries(
  Object.entries(everySetting).map(([name, schema]) => [
    name,
    z.optional(schema instanceof z.ZodDefault || schema instanceof z.ZodOptional ? schema.unwrap() : schema),
  ]),
);
type Settings = Partial<Omit<TrustSource, "kind" | "issuer">>;

const update = z.strictObject({
  ...settings,
  name: thingName.optional(),
  bundle: z.union([z.null(), settings["bundle"] ?? z.never()]).optional(),
  bundle_url: z.union([z.null(), settings["bundle_url"] ?? z.never()]).optional(),
  bundle_profile: z.union([z.null(), settings["bundle_profile"] ?? z.never()]).optional(),
  certificates: z.union([z.null(), settings["certificates"] ?? z.never()]).optional(),
  jwks: z.union([z.null(), settings["jwks"] ?? z.never()]).optional(),
}) as unknown as z.ZodType<{ name?: string } & Settings>;

const keyCheck = z.strictObject({
  ok: z.boolean(),
  keys: z.int().describe("How many keys would be used."),
  left_out: z.array(z.string()).describe("Keys of the document that are not used, and why."),
  problem: z.string().nullable(),
}) satisfies z.ZodType<KeyCheck>;

/** Trust sources: whose tokens or certificates prove who somebody is. Their kind and issuer never change. */
export function trustSourceEndpoints(deps: TrustSourceDeps): Endpoint[] {
  const sources = collectionRoutes<"trust_sources", z.output<typeof create>, { name?: string } & Settings>(deps, {
    path: "/v1/trust-sources",
    word: "trust_source",
    idKind: "trustSource",
    table: "trust_sources",
    reads: ["admin", "auditor"],
    writes: ["admin"],
    shape: {
      name: z.string(),
      kind: z.enum(kinds),
      issuer: z.string(),
      audience: z.string().describe("What `aud` of its tokens must be, byte for byte, and nothing else."),
      state: z.enum(states),
      ...settings,
    },
    filters: { name: thingName, kind: z.enum(kinds), issuer: z.string().max(512), state: z.enum(states) },
    create,
    update: atLeastOne(update),
    referrers: [{ table: "identities", column: "trust_source_id", words: "identities" }],
    unique: { trust_sources_tenant_id_name_key: "/name", trust_sources_tenant_id_issuer_key: "/issuer" },
    toColumns(body) {
      if (!("kind" in body)) return body.name === undefined ? {} : { name: body.name };
      const { name, kind, issuer, ...rest } = body;
      return { name, kind, issuer, settings: JSON.stringify(rest) };
    },
    toMembers: (row, caller) => ({ ...row.settings, audience: deps.issuerUrl(caller.tenantName) }),
    async beforeCreate(_tx, body, caller) {
      checkTrustSource(body, caller, deps.issuerUrl(caller.tenantName));
      return undefined;
    },
    async beforeUpdate(_tx, row, patch, caller) {
      const { name: __name, ...given } = patch;
      const changed = changedSettings(row, given);
      checkTrustSource(changed, caller, deps.issuerUrl(caller.tenantName));
      const { kind: __kind, issuer: __issuer, ...rest } = changed;
      return { settings: JSON.stringify(rest) };
    },
  });
  return [
    ...sources.endpoints,
    sources.action({
      name: "state",
      summary:
        "Disable a trust source (nobody gets in by it, and what was minted through it is taken back), or enable it",
      allow: ["admin"],
      body: z.strictObject({ state: z.enum(states) }),
      run: (tx, caller, id, { body }) => changeTrustSourceState(tx, caller, id as Id<"trustSource">, body.state),
    }),
    endpoint({
      method: "post",
      path: "/v1/trust-sources/{trust_source_id}/check",
      summary: "Read its keys now and say what was found. Nothing is changed",
      tag: "trust-sources",
      allow: ["admin"],
      params: z.strictObject({ trust_source_id: idSchema("trustSource") }),
      replies: { 200: keyCheck },
      async handle({ principal, params }) {
        return { status: 200, body: await tryKeys(deps.db, deps.fetchJson, principal, params.trust_source_id) };
      },
    }),
  ];
}
