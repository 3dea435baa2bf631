import type { Db } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import type { SigningKeys } from "../keys/signing-keys.ts";
import type { Id } from "../lib/ids.ts";
import type { Log } from "../lib/log.ts";
import type { Sealer } from "../lib/seal.ts";
import type { Policies } from "../policy/policies.ts";
import type { WakeUps } from "../queue/queue.ts";
import type { StatusPlaces } from "../status/places.ts";
import type { TargetClients } from "../targets/target-clients.ts";
import type { Minted, MintLimits } from "./mint-plan.ts";
import type { MintSql } from "./mint-sql.ts";
import { takeBack } from "./take-back.ts";

/** What a mint needs. */
export interface MintDeps {
  readonly db: Db;
  readonly policies: Policies;
  readonly targets: TargetClients;
  readonly keys: SigningKeys;
  readonly statusPlaces: StatusPlaces;
  readonly handles: Sealer;
  readonly wakeUps: WakeUps;
  readonly limits: MintLimits;
  /** The tenant's issuer string, `iss` of every token. */
  readonly issuerUrl: (tenantName: string) => string;
  readonly log: Log;
  readonly sql: MintSql;
}

/** `credentialId`: the id that an Idempotency-Key already stands for; a new one when absent. */
export interface MintContext {
  readonly requestId: string;
  /** Who calls, as the registry says it now: asked when the registry has changed since the caller was let in. */
  readonly authenticateAgain: () => Promise<Principal>;
  readonly credentialId?: Id<"credential"> | undefined;
}

/** What comes after the intent is committed. */
export type Finish = () => Promise<Minted>;

/** Tells the worker at once. If even this fails, the sweep finds the row when its time to be created has passed. */
export async function abandon(
  deps: MintDeps,
  principal: Principal,
  id: Id<"credential">,
  context: MintContext,
): Promise<void> {
  try {
    const acting = { tenantId: principal.tenantId, actor: principal.subject, requestId: context.requestId };
    await deps.db.withTenant(acting, (tx) =>
      takeBack(tx, (query) => query.where("id", "=", id), { ...acting, by: principal.subject, reason: "mint_failed" }),
    );
    deps.wakeUps.now();
  } catch (error) {
    deps.log.warn({ err: error, credential: id }, "a failed mint is left to the sweep");
  }
}
