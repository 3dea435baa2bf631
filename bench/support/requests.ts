import { createPrivateKey, type JsonWebKey, type KeyObject, randomUUID, sign } from "node:crypto";
import { assertNever } from "../../src/lib/errors.ts";

/** Who signs: an ES256 key and the name that the verifier knows it by. */
export interface SigningParty {
  readonly jwk: JsonWebKey;
  readonly kid: string;
}

/** An OAuth client: how it authenticates, what it asks for beside the grant, and the key that its tokens are bound to. */
export interface Client extends SigningParty {
  readonly clientId: string;
  readonly form: Readonly<Record<string, string>>;
  readonly proofKey?: JsonWebKey;
}

/** What the requests of a round are made of. */
export type Recipe =
  | {
      readonly kind: "mint";
      readonly host: string;
      readonly workload: SigningParty;
      readonly issuer: string;
      readonly audience: string;
      /** One agent's `sub` and a task of its own each. */
      readonly callers: readonly { readonly sub: string; readonly taskId: string }[];
      readonly target: string;
      readonly resource: string;
      readonly ttl: number;
      /** Fresh tokens and requests, this many; 0: a few tokens that are sent again and again. */
      readonly fresh: number;
    }
  | {
      readonly kind: "client_credentials";
      readonly host: string;
      readonly path: string;
      /** What the assertions must say in `aud`. */
      readonly issuer: string;
      readonly clients: readonly Client[];
      /** What the server wants in DPoP proofs, if it wants that. */
      readonly nonce?: string;
      readonly fresh: number;
    }
  | {
      readonly kind: "introspect";
      readonly host: string;
      readonly callerToken: string;
      readonly tokens: readonly string[];
    };

/** Every request of a round as the bytes that go over the wire, signed and ready. */
export function requestsOf(recipe: Recipe): { requests: readonly Buffer[]; reusable: boolean } {
  switch (recipe.kind) {
    case "mint":
      return { requests: mints(recipe), reusable: recipe.fresh === 0 };
    case "client_credentials":
      return { requests: clientCredentials(recipe), reusable: false };
    case "introspect":
      return { requests: introspections(recipe), reusable: true };
    default:
      return assertNever(recipe);
  }
}

/** Requests per caller when tokens are sent again. Each has a token and a lifetime of its own, as in life. */
const REUSED_PER_CALLER = 16;

function mints(recipe: Extract<Recipe, { kind: "mint" }>): Buffer[] {
  const key = createPrivateKey({ key: recipe.workload.jwk, format: "jwk" });
  const count = recipe.fresh || recipe.callers.length * REUSED_PER_CALLER;
  return Array.from({ length: count }, (_, index) => {
    const caller = recipe.callers[index % recipe.callers.length];
    const token = signJwt(key, recipe.workload.kid, { iss: recipe.issuer, sub: caller?.sub, aud: recipe.audience });
    // Lifetimes differ, so that no two seconds' wake-ups, and not all questions to the policies, are the same one.
    const ttl = Math.max(1, recipe.ttl - (index % Math.ceil(recipe.ttl / 2)));
    const body = {
      task_id: caller?.taskId,
      target: recipe.target,
      actions: ["read"],
      resources: [recipe.resource],
      ttl_seconds: ttl,
    };
    return post(recipe.host, "/v1/credentials", "application/json", JSON.stringify(body), token);
  });
}

function clientCredentials(recipe: Extract<Recipe, { kind: "client_credentials" }>): Buffer[] {
  const clients = recipe.clients.map((client) => ({
    ...client,
    key: createPrivateKey({ key: client.jwk, format: "jwk" }),
    prove: client.proofKey === undefined ? undefined : proverOf(client.proofKey, recipe),
  }));
  return Array.from({ length: recipe.fresh }, (_, index) => {
    const client = clients[index % clients.length];
    if (client === undefined) throw new Error("no clients");
    const { clientId, key, kid, prove } = client;
    const form = new URLSearchParams({
      grant_type: "client_credentials",
      ...client.form,
      client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
      client_assertion: signJwt(key, kid, { iss: clientId, sub: clientId, aud: recipe.issuer }),
    });
    const proof = prove?.();
    const extra = proof === undefined ? [] : [`DPoP: ${proof}`];
    return post(recipe.host, recipe.path, "application/x-www-form-urlencoded", form.toString(), undefined, extra);
  });
}

/** Makes DPoP proofs (RFC 9449 §4.2) for the token endpoint. */
export function proverOf(
  proofKey: JsonWebKey,
  { host, path, nonce }: { readonly host: string; readonly path: string; readonly nonce?: string },
): () => string {
  const key = createPrivateKey({ key: proofKey, format: "jwk" });
  const { kty, crv, x, y } = proofKey;
  const header = { typ: "dpop+jwt", alg: "ES256", jwk: { kty, crv, x, y } };
  return () =>
    signed(key, header, {
      htm: "POST",
      htu: `http://${host}${path}`,
      iat: Math.floor(Date.now() / 1000),
      jti: randomUUID(),
      ...(nonce === undefined ? {} : { nonce }),
    });
}

function introspections({ host, tokens, callerToken }: Extract<Recipe, { kind: "introspect" }>): Buffer[] {
  return tokens.map((token) =>
    post(
      host,
      "/oauth/introspect",
      "application/x-www-form-urlencoded",
      new URLSearchParams({ token }).toString(),
      callerToken,
    ),
  );
}

/** A JWT of five minutes with these claims and a `jti` of its own. */
export function signJwt(key: KeyObject, kid: string, claims: Readonly<Record<string, unknown>>): string {
  const now = Math.floor(Date.now() / 1000);
  return signed(key, { alg: "ES256", kid }, { ...claims, iat: now, exp: now + 300, jti: randomUUID() });
}

function signed(key: KeyObject, header: object, claims: object): string {
  const encode = (part: object): string => Buffer.from(JSON.stringify(part)).toString("base64url");
  const text = `${encode(header)}.${encode(claims)}`;
  return `${text}.${sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}

function post(
  host: string,
  path: string,
  contentType: string,
  body: string,
  token?: string,
  extra: readonly string[] = [],
): Buffer {
  const lines = [
    `POST ${path} HTTP/1.1`,
    `Host: ${host}`,
    ...(token === undefined ? [] : [`Authorization: Bearer ${token}`]),
    ...extra,
    `Content-Type: ${contentType}`,
    `Content-Length: ${Buffer.byteLength(body)}`,
    "",
    body,
  ];
  return Buffer.from(lines.join("\r\n"));
}
