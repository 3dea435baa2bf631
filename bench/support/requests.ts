import { createPrivateKey, type JsonWebKey, type KeyObject, randomUUID, sign } from "node:crypto";
import { assertNever } from "../../src/lib/errors.ts";

/** Who signs: an ES256 key and the name that the verifier knows it by. */
export interface SigningParty {
  readonly jwk: JsonWebKey;
  readonly kid: string;
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
      readonly issuer: string;
      readonly clients: readonly (SigningParty & { readonly clientId: string })[];
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
  }));
  return Array.from({ length: recipe.fresh }, (_, index) => {
    const client = clients[index % clients.length];
    if (client === undefined) throw new Error("no clients");
    const { clientId, key, kid } = client;
    const form = new URLSearchParams({
      grant_type: "client_credentials",
      scope: "read",
      client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
      client_assertion: signJwt(key, kid, { iss: clientId, sub: clientId, aud: recipe.issuer }),
    });
    return post(recipe.host, "/token", "application/x-www-form-urlencoded", form.toString());
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
  const encode = (part: object): string => Buffer.from(JSON.stringify(part)).toString("base64url");
  const text = `${encode({ alg: "ES256", kid })}.${encode({ ...claims, iat: now, exp: now + 300, jti: randomUUID() })}`;
  return `${text}.${sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}

function post(host: string, path: string, contentType: string, body: string, token?: string): Buffer {
  const lines = [
    `POST ${path} HTTP/1.1`,
    `Host: ${host}`,
    ...(token === undefined ? [] : [`Authorization: Bearer ${token}`]),
    `Content-Type: ${contentType}`,
    `Content-Length: ${Buffer.byteLength(body)}`,
    "",
    body,
  ];
  return Buffer.from(lines.join("\r\n"));
}
