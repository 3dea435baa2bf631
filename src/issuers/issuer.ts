import type { z } from "zod";
import type { Id } from "../lib/ids.ts";
import type { Secret } from "../lib/secret.ts";

/**
 * One kind of credential that Mayfly can mint. A file in this folder implements one, `registry.ts` lists it.
 *
 * Config is what an admin stores on a target (sealed). Access is what one resource of that target means for one
 * action (for example: which group roles). Handle is what revoke and probe need later; it is committed, sealed,
 * before the target is touched (invariant 3), so it must follow from the credential's id and the config alone; what only the
 * far side can tell is added to it as soon as it is known (`keep`). It is erased when there is a receipt.
 */
export interface Issuer<Kind extends string, Config, Access, Handle, Client extends AsyncDisposable> {
  /** Stored on every target and credential, and the `issuer` of the API. Never rename one. */
  readonly kind: Kind;
  readonly config: z.ZodType<Config>;
  readonly access: z.ZodType<Access>;
  readonly handle: z.ZodType<Handle>;
  /** Paths of `config` that hold secrets, as top-level member names. They are never returned by the API. */
  readonly secretConfig: readonly (keyof Config & string)[];
  /** Members of `config` that say *which* system this is. They never change after registration, so that a revoke reaches the system that the mint reached. */
  readonly identityConfig: readonly (keyof Config & string)[];
  /** What the far side enforces and whether it can take back. Pure, and of `identityConfig` alone: a credential keeps its bounds. */
  bounds(config: Config): Bounds;
  /** Opens a client for one version of a target's config. The runtime caches it per target version and disposes it. */
  connect(config: Config): Promise<Client>;
  /** The deterministic downstream name and what revoke needs. Pure: called before the intent is committed. */
  name(credentialId: Id<"credential">, config: Config): { readonly downstreamName: string; readonly handle: Handle };
  /**
   * Creates it, under the name given. Must not take effect after `createBy`, even if the request was delayed on
   * its way. On any error the runtime revokes by the handle; an error needs no clean-up of its own.
   */
  issue(client: Client, request: IssueRequest<Access, Handle>): Promise<Issued>;
  /** Takes it back. Succeeds when it is already gone or was never created. `residue` names something harmless that had to stay. */
  revoke(client: Client, handle: Handle, signal: AbortSignal): Promise<{ readonly residue?: string }>;
  /** Looks whether it still works, by effect or in the far side's own records. `unknown` when the far side did not say. */
  probe(client: Client, handle: Handle, signal: AbortSignal): Promise<ProbeResult>;
  /** The downstream names that this deployment made here, for reconciliation. Absent where the far side has no listing. */
  list?(client: Client, signal: AbortSignal): Promise<readonly Listed<Handle>[]>;
  /** What must hold for the target to be usable, checked at registration beside the canary: throws `target_refused` with the exact remedy. */
  inspect?(client: Client, access: readonly Access[], signal: AbortSignal): Promise<void>;
}

/** What a target declares about the credentials that are made there. All in seconds. */
export interface Bounds {
  /** A mint is clamped into them. */
  readonly ttlSeconds: { readonly min: number; readonly max: number };
  /**
   * `immediate`: can be taken back one by one. `expiry`: lives until its own end whatever we do: neither `revoke` nor `probe`
   * is called, its TTL cap shrinks, and the API says so.
   */
  readonly revocability: "immediate" | "expiry";
  /** After `expiresAt`, when the far side itself has ended it, without us, at the latest. Undefined: it never does. */
  readonly backstopSeconds: number | undefined;
  /** Between a proven revoke and the last moment at which the far side may still accept it. 0 when none. */
  readonly effectiveBoundSeconds: number;
}

/** What `issue` is asked to make. Times are the broker database's clock. */
export interface IssueRequest<Access, Handle> {
  readonly credentialId: Id<"credential">;
  readonly downstreamName: string;
  readonly handle: Handle;
  /** One entry per (resource, action) granted. */
  readonly access: readonly Access[];
  /** When the far side's own backstop must end it, at the latest. */
  readonly expiresAt: Date;
  /** Milliseconds from now after which it must not take effect any more. */
  readonly createWithinMs: number;
  readonly signal: AbortSignal;
  /**
   * Commits a fuller handle: what revoke needs and only the far side could tell (an accessor, the token itself). Called before
   * anything is made that cannot be taken back without it. Rejects when the credential was taken back meanwhile: then `issue`
   * takes back what it has made, as far as it can, and rejects too.
   */
  keep(handle: Handle): Promise<void>;
}

/** What was made. `secret` is revealed once, in the answer to the caller. */
export interface Issued {
  readonly secret: Readonly<Record<string, Secret | string | number>>;
  /** Set when the far side chose an earlier end than asked. */
  readonly expiresAt?: Date;
}

/** What a probe saw. `by` names the method (stable, ends up in the receipt), `detail` what was seen, without secrets. */
export interface ProbeResult {
  readonly outcome: "dead" | "alive" | "unknown";
  readonly by: string;
  readonly detail: string;
}

/** One thing of ours found downstream. `credentialId` is absent when the name does not say. */
export interface Listed<Handle> {
  readonly downstreamName: string;
  readonly credentialId?: Id<"credential">;
  readonly handle: Handle;
}

/**
 * The other kind of issuer: the credential is a token that Mayfly signs itself, so there is no far side to touch. It
 * is alive exactly as long as introspection says so; who verifies it offline believes it until its `exp`.
 */
export interface SelfContainedIssuer<Kind extends string, Config, Access> {
  readonly kind: Kind;
  readonly config: z.ZodType<Config>;
  readonly access: z.ZodType<Access>;
  readonly secretConfig: readonly (keyof Config & string)[];
  readonly identityConfig: readonly (keyof Config & string)[];
  bounds(config: Config): Pick<Bounds, "ttlSeconds" | "revocability">;
  /** The JOSE `typ` and the claims beyond `iss sub client_id iat exp jti`, which the mint sets. */
  token(
    config: Config,
    grant: TokenGrant<Access>,
  ): { readonly typ: string; readonly claims: Readonly<Record<string, unknown>> };
}

/** What a self-contained token says about its reason. */
export interface TokenGrant<Access> {
  readonly taskId: Id<"task">;
  readonly purpose: string;
  readonly environment: string;
  readonly dataClass: string;
  readonly actions: readonly string[];
  readonly resources: readonly string[];
  readonly access: readonly Access[];
  /** What may be minted from it, as the token says it. Undefined: nothing. */
  readonly delegation: object | undefined;
}

/** Names an issuer's types without spelling them: `export const postgres = defineIssuer({ kind: "postgres", … })`. */
export function defineIssuer<const Kind extends string, Config, Access, Handle, Client extends AsyncDisposable>(
  issuer: Issuer<Kind, Config, Access, Handle, Client>,
): Issuer<Kind, Config, Access, Handle, Client> {
  return issuer;
}
