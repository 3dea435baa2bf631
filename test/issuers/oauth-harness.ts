import { afterAll, beforeAll, beforeEach } from "@jest/globals";
import type { Issued } from "../../src/issuers/issuer.ts";
import { oauthIssuer } from "../../src/issuers/oauth.ts";
import type { OauthHandle } from "../../src/issuers/oauth-token.ts";
import type { Secret } from "../../src/lib/secret.ts";
import { asRuntime, type MintChanges, type Minted } from "./as-runtime.ts";
import { API, type OauthServer, oauthServer, SECRET } from "./oauth-server.ts";

export type Config = ReturnType<typeof oauthIssuer.config.parse>;
export type Access = ReturnType<typeof oauthIssuer.access.parse>;

/** An authorization server and its API for the tests of one file. */
export interface OauthHarness {
  server(): OauthServer;
  config(): Config;
  /** Mints as the runtime does. */
  mint(changes?: MintChanges<Config, Access, OauthHandle>): Promise<Minted<OauthHandle>>;
  /** Revokes and looks. */
  end(handle: OauthHandle, config?: Config): Promise<string>;
  /** The API's status for a token. */
  use(secret: Issued["secret"], method?: string): Promise<number>;
  /** When the server ends a token, as it says itself. */
  endOf(token: string): Promise<Date>;
  /** A signal that ends a mint when the server is asked for the second time whether its token is active. */
  atSecondLook(): AbortSignal;
  /** The tokens that were presented to be taken back. */
  takenBack(): (string | null)[];
}

export const read: Access = { scope: ["read"], resource: API };

/** A target's config for this authorization server. */
export function configOf({ issuer }: OauthServer): Config {
  return {
    issuer,
    client_id: "mayfly",
    client_authentication: "client_secret_post",
    client_secret: SECRET,
    grant: "client_credentials",
    revocation: "required",
    max_token_seconds: 600,
  };
}

export function oauthHarness(): OauthHarness {
  let server: OauthServer;
  beforeAll(async () => {
    server = await oauthServer();
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
  });
  beforeEach(() => {
    Object.assign(server, { instead: undefined, change: undefined, grantsDieWhole: false });
    server.asked.length = 0;
  });
  const config = (): Config => configOf(server);
  const runtime = asRuntime(oauthIssuer, config);
  return {
    server: () => server,
    config,
    mint: (changes) => runtime.mint([read], changes),
    end: runtime.end,
    async use({ access_token: token }, method = "GET") {
      const headers = { authorization: `Bearer ${(token as Secret).reveal()}` };
      return (await fetch(server.api.origin, { method, headers })).status;
    },
    async endOf(token) {
      const answer = await fetch(`${server.issuer}/token/introspection`, {
        method: "POST",
        body: new URLSearchParams({ token, client_id: "mayfly", client_secret: SECRET }),
      });
      return new Date(((await answer.json()) as { exp: number }).exp * 1000);
    },
    atSecondLook() {
      const stop = new AbortController();
      let looks = 0;
      server.instead = (at) => {
        if (at.endsWith("/introspection")) looks += 1;
        if (looks === 2) stop.abort();
        return undefined;
      };
      return stop.signal;
    },
    takenBack: () =>
      server.asked.filter(({ at }) => at === "POST /token/revocation").map(({ form }) => form.get("token")),
  };
}
