import { generateKeyPairSync, type JsonWebKey } from "node:crypto";
import type { Helper } from "./child.ts";
import type { StartPeer } from "./peer.ts";
import { helperCpu, type Side } from "./rounds.ts";

const CLIENTS = 16;

/** A client's keys: it authenticates with one, and its tokens can be bound to the other. */
export interface ClientKeys {
  readonly clientId: string;
  readonly kid: string;
  readonly jwk: JsonWebKey;
  readonly publicJwk: object;
  readonly proofKey: JsonWebKey;
}

/** Clients with keys of their own: as many as the mint has agents. */
export function makeClients(): readonly ClientKeys[] {
  return Array.from({ length: CLIENTS }, (_, index) => {
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const kid = `client-key-${index}`;
    return {
      clientId: `client-${index}`,
      kid,
      jwk: privateKey.export({ format: "jwk" }),
      publicJwk: { ...publicKey.export({ format: "jwk" }), kid, alg: "ES256", use: "sig" },
      proofKey: generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ format: "jwk" }),
    };
  });
}

interface PeerOptions {
  readonly clients: readonly ClientKeys[];
  readonly format: StartPeer["format"];
  /** Requests that a round may need. */
  readonly fresh: number;
  /** Whether each request has a DPoP proof. */
  readonly dpop: boolean;
}

/** node-oidc-provider as one side: `client_credentials` by `private_key_jwt`, an ES256 access token out. */
export async function peerSideOf(peer: Helper, { clients, format, fresh, dpop }: PeerOptions): Promise<Side> {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const { port } = await peer.ask<{ port: number }>({
    clients: clients.map(({ clientId, publicJwk }) => ({ clientId, jwk: publicJwk })),
    signingKey: { ...privateKey.export({ format: "jwk" }), kid: "signing", alg: "ES256", use: "sig" },
    format,
    dpop,
  } satisfies StartPeer);
  const host = `127.0.0.1:${port}`;
  const asked = clients.map(({ clientId, kid, jwk, proofKey }) => ({
    clientId,
    kid,
    jwk,
    form: { scope: "read" },
    ...(dpop ? { proofKey } : {}),
  }));
  return {
    name: "node-oidc-provider",
    port,
    recipe: () => ({
      kind: "client_credentials",
      host,
      path: "/token",
      issuer: `http://${host}`,
      clients: asked,
      fresh,
    }),
    check: (body) => checkToken(body, dpop),
    cpu: helperCpu("node-oidc-provider", peer),
  };
}

/** Throws unless the answer holds an access token of the type that was asked for. */
export function checkToken(body: string, dpop: boolean): void {
  const { access_token: token, token_type: type } = JSON.parse(body) as { access_token?: string; token_type?: string };
  if (token === undefined || type !== (dpop ? "DPoP" : "Bearer")) throw new Error(`not the token: ${body}`);
}
