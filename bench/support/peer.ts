import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Provider } from "oidc-provider";
import { answerParent } from "./child.ts";

/** Starts node-oidc-provider: the clients' public keys, and whether its access tokens are JWTs or opaque. */
export interface StartPeer {
  readonly clients: readonly { readonly clientId: string; readonly jwk: object }[];
  readonly signingKey: object;
  readonly format: "jwt" | "opaque";
  /** Whether DPoP is on. Nonces are not asked for, which is its default. */
  readonly dpop: boolean;
}

const RESOURCE = "https://tickets.bench/api";

// Its defaults, its own in-memory adapter (which keeps the last 1,000 things), and what client_credentials with
// private_key_jwt and an ES256 token need. No policy, no database, no log.
answerParent(async ({ clients, signingKey, format, dpop }: StartPeer) => {
  const server = createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: clients.map(({ clientId, jwk }) => ({
      client_id: clientId,
      token_endpoint_auth_method: "private_key_jwt",
      token_endpoint_auth_signing_alg: "ES256",
      id_token_signed_response_alg: "ES256",
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
      jwks: { keys: [jwk] },
    })),
    jwks: { keys: [signingKey] },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      dPoP: { enabled: dpop },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => RESOURCE,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope: "read write",
          audience: RESOURCE,
          accessTokenTTL: 300,
          accessTokenFormat: format,
          ...(format === "jwt" ? { jwt: { sign: { alg: "ES256" } } } : {}),
        }),
      },
    },
  });
  server.on("request", provider.callback());
  return { port };
});
