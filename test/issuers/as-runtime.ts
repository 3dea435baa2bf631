import type { Issued, IssueRequest, Issuer } from "../../src/issuers/issuer.ts";
import { newId } from "../../src/lib/ids.ts";
import { never } from "./conformance.ts";

/** What a mint gave. */
export interface Minted<Handle> {
  readonly secret: Issued["secret"];
  readonly expiresAt: Date | undefined;
  /** As it was last kept. */
  readonly handle: Handle;
}

/** Where, and what is not as always. */
export type MintChanges<Config, Access, Handle> = Partial<IssueRequest<Access, Handle>> & { readonly config?: Config };

/** An issuer as the runtime uses it, with a client of its own each time. */
export function asRuntime<Config, Access, Handle, Client extends AsyncDisposable>(
  issuer: Issuer<string, Config, Access, Handle, Client>,
  config: () => Config,
) {
  return {
    /** For a minute. */
    async mint(
      access: readonly Access[],
      { config: given = config(), ...others }: MintChanges<Config, Access, Handle> = {},
    ): Promise<Minted<Handle>> {
      await using client = await issuer.connect(given);
      const id = newId("credential");
      const named = issuer.name(id, given);
      let { handle } = named;
      const { secret, expiresAt } = await issuer.issue(client, {
        credentialId: id,
        ...named,
        access,
        expiresAt: new Date(Date.now() + 60_000),
        createWithinMs: 5_000,
        signal: never(),
        keep: async (fuller) => {
          handle = fuller;
        },
        ...others,
      });
      return { secret, expiresAt, handle };
    },
    /** Revokes and looks. */
    async end(handle: Handle, given: Config = config()): Promise<string> {
      await using client = await issuer.connect(given);
      await issuer.revoke(client, handle, never());
      return (await issuer.probe(client, handle, never())).outcome;
    },
  };
}
