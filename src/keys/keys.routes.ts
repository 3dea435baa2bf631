import { z } from "zod";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { type Pager, pageOf, pageQuery } from "../http/page.ts";
import { notFound } from "../lib/errors.ts";
import { moment, prose } from "../lib/wire.ts";
import type { WakeUps } from "../queue/queue.ts";
import { JWKS_MAX_AGE_SECONDS, type KeyAges } from "./ages.ts";
import { markCompromised } from "./compromise.ts";
import { keyPurposeNames } from "./key-purpose.ts";
import { keySetOf } from "./key-set.ts";
import { type KeyPlace, type KeyRow, listKeys } from "./list-keys.ts";
import type { KeyDeps } from "./make-key.ts";
import { rotateNow } from "./rotate.ts";

interface KeyEndpointDeps extends KeyDeps {
  readonly pager: Pager;
  readonly wakeUps: WakeUps;
  readonly keyAges: KeyAges;
}

const kid = z.string().regex(/^[A-Za-z0-9_-]{43}$/);
const purpose = z.enum(keyPurposeNames);
const state = z.enum(["pending", "active", "retiring", "gone", "compromised"]);

const keyReply = z.strictObject({
  kid,
  purpose,
  algorithm: z.string(),
  state,
  published_at: moment,
  activated_at: moment.nullable(),
  retired_at: moment.nullable(),
  published_until: moment.nullable().describe("After this nothing that it signed can be alive. Set when it retires."),
  ended_at: moment.nullable(),
  reason: z.string().nullable(),
});

const place: z.ZodType<KeyPlace> = z.tuple([z.int(), kid]);

/** The public keys of each tenant's issuer, and the life of the private ones. */
export function keyEndpoints(deps: KeyEndpointDeps): Endpoint[] {
  const { db, pager } = deps;
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
        const set = await keySetOf(deps, params.tenant);
        if (set === undefined) throw notFound();
        return {
          status: 200,
          body: { keys: set.keys },
          etag: set.etag,
          headers: {
            "content-type": "application/jwk-set+json",
            "cache-control": `public, max-age=${JWKS_MAX_AGE_SECONDS}`,
          },
        };
      },
    }),
    endpoint({
      method: "get",
      path: "/v1/signing-keys",
      summary: "The tenant's signing keys and their states, newest first",
      tag: "keys",
      allow: ["admin", "auditor"],
      query: z.strictObject({ purpose: purpose.optional(), state: state.optional(), ...pageQuery }),
      replies: { 200: pageOf(keyReply) },
      async handle(call) {
        const page = pager.read(call, place);
        const rows = await listKeys(db, call.principal, call.query, page);
        const keyOf = (row: KeyRow): KeyPlace => [row.created_at.getTime(), row.kid];
        return pager.reply(call, page, { rows, keyOf, toItem: toReply });
      },
    }),
    endpoint({
      method: "post",
      path: "/v1/signing-keys/rotate",
      summary: "Let the next key sign now (200), or publish it and say when it may (202)",
      tag: "keys",
      allow: ["admin"],
      body: z.strictObject({ purpose }),
      replies: {
        200: z.strictObject({ key: keyReply }),
        202: z.strictObject({ key: keyReply, ready_at: moment }),
      },
      async handle({ principal, body, requestId }) {
        const { key, readyAt } = await rotateNow(deps, principal, body.purpose, deps.keyAges, requestId);
        if (readyAt === undefined) return { status: 200, body: { key: toReply(key) } };
        return { status: 202, body: { key: toReply(key), ready_at: readyAt.toISOString() } };
      },
    }),
    endpoint({
      method: "post",
      path: "/v1/signing-keys/{kid}/compromised",
      summary: "Somebody else has this key: withdraw it, take back everything that it signed, sign with a new one",
      tag: "keys",
      allow: ["admin"],
      params: z.strictObject({ kid }),
      body: z.strictObject({ reason: prose(500) }),
      replies: { 200: z.strictObject({ kid, active_kid: kid, taken_back: z.int() }) },
      async handle({ principal, params, body, requestId }) {
        const done = await markCompromised(deps, principal, params.kid, body.reason, requestId);
        deps.wakeUps.now();
        return {
          status: 200,
          body: { kid: params.kid, active_kid: done.activeKid, taken_back: done.takenBack },
        };
      },
    }),
  ];
}

function toReply(row: KeyRow): z.infer<typeof keyReply> {
  return {
    kid: row.kid,
    purpose: row.purpose,
    algorithm: row.algorithm,
    state: row.state,
    published_at: row.created_at.toISOString(),
    activated_at: row.activated_at?.toISOString() ?? null,
    retired_at: row.retired_at?.toISOString() ?? null,
    published_until: row.published_until?.toISOString() ?? null,
    ended_at: row.ended_at?.toISOString() ?? null,
    reason: row.reason,
  };
}
