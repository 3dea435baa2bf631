// The package has no types of its own. Only what bench/support/peer.ts, test/identity/oidc-provider.ts and
// test/issuers/oauth-server.ts use.
declare module "oidc-provider" {
  import type { IncomingMessage, RequestListener, ServerResponse } from "node:http";

  export class Grant {
    addOIDCScope(scope: string): void;
    addResourceScope(resource: string, scope: string): void;
    save(): Promise<string>;
  }

  /** A kind of token: made, stored under a value of its own, found by it. */
  interface TokenModel {
    new (given: object): { readonly expiration: number; save(): Promise<string> };
    find(value: string): Promise<object | undefined>;
  }

  export class Provider {
    constructor(issuer: string, configuration: object);
    readonly Grant: new (who: {
      readonly clientId: string;
      readonly accountId: string;
    }) => Grant;
    readonly RefreshToken: TokenModel;
    readonly ClientCredentials: TokenModel;
    readonly Client: { find(clientId: string): Promise<object | undefined> };
    /** Before and after whatever the provider does. */
    use(
      step: (
        context: {
          readonly method: string;
          readonly path: string;
          readonly oidc?: { readonly body?: Record<string, string> };
          status: number;
          body: object | string;
          set(headers: object): void;
        },
        next: () => Promise<void>,
      ) => Promise<void>,
    ): void;
    registerGrantType(
      name: string,
      handler: (context: {
        readonly oidc: { readonly client: object; readonly params: Readonly<Record<string, string | undefined>> };
        status: number;
        body: object;
      }) => Promise<void>,
      parameters: readonly string[],
    ): void;
    callback(): RequestListener;
    interactionFinished(request: IncomingMessage, response: ServerResponse, result: object): Promise<void>;
  }
}
