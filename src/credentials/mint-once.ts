import { sql } from "kysely";
import type { Db } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import { canonicalHash } from "../lib/canonical-json.ts";
import { MayflyError } from "../lib/errors.ts";
import { type Id, newId } from "../lib/ids.ts";
import { takeBack } from "./take-back.ts";

const ROUTE = "POST /v1/credentials";
/** A mint that holds its key longer than this has died with its process. */
const LOCK_SECONDS = 60;

/**
 * `Idempotency-Key` for mints (design §6). A secret cannot be replayed, because it is not stored: the key stands for
 * "never two live". The id of the credential is written under the key before the mint begins, so a repeat takes that
 * one back, whatever became of it, and mints a new one under the same key.
 *
 * Throws `in_progress` while another request holds the key and `idempotency_mismatch` for another payload.
 */
export async function mintOnce<Result>(
  db: Db,
  principal: Principal,
  { key, payload, requestId }: { key: string; payload: unknown; requestId: string },
  mint: (credentialId: Id<"credential">) => Promise<Result>,
): Promise<Result> {
  const id = newId("credential");
  const { tenantId, subject } = principal;
  const fingerprint = canonicalHash(payload);
  await db.withTenant({ tenantId, actor: subject, requestId }, async (tx) => {
    const previous = await tx
      .selectFrom("idempotency_keys")
      .select(["fingerprint", "state", "credential_id", sql<boolean>`locked_until > clock_timestamp()`.as("held")])
      .where("tenant_id", "=", tenantId)
      .where("subject", "=", subject)
      .where("route", "=", ROUTE)
      .where("key", "=", key)
      .forUpdate()
      .executeTakeFirst();
    if (previous !== undefined && previous.fingerprint !== fingerprint)
      throw new MayflyError(
        "idempotency_mismatch",
        "this Idempotency-Key was used with another payload; use a new key",
      );
    if (previous?.state === "running" && previous.held)
      throw new MayflyError("in_progress", "a mint with this Idempotency-Key is still running", {
        retryAfterSeconds: 1,
      });
    const { rows } = await sql`
      insert into idempotency_keys as present (tenant_id, subject, route, key, fingerprint, state, credential_id, locked_until)
      values (${tenantId}, ${subject}, ${ROUTE}, ${key}, ${fingerprint}, 'running', ${id}, clock_timestamp() + make_interval(secs => ${LOCK_SECONDS}))
      on conflict (tenant_id, subject, route, key) do update
        set state = 'running', credential_id = excluded.credential_id, locked_until = excluded.locked_until
        where present.credential_id is not distinct from ${previous?.credential_id ?? null} and ${previous !== undefined}
      returning key`.execute(tx);
    // Two firsts at once: the primary key let one in.
    if (rows.length === 0)
      throw new MayflyError("in_progress", "a mint with this Idempotency-Key is still running", {
        retryAfterSeconds: 1,
      });
    const before = previous?.credential_id as Id<"credential"> | null | undefined;
    if (before)
      await takeBack(tx, (query) => query.where("id", "=", before), { tenantId, by: subject, reason: "replayed" });
  });
  try {
    return await mint(id);
  } finally {
    // Whether it was minted or refused: the key stays, bound to its payload, and a repeat starts over.
    await db.withTenant({ tenantId, actor: subject, requestId }, (tx) =>
      tx
        .updateTable("idempotency_keys")
        .set({ state: "done", locked_until: null })
        .where("tenant_id", "=", tenantId)
        .where("subject", "=", subject)
        .where("route", "=", ROUTE)
        .where("key", "=", key)
        .where("credential_id", "=", id)
        .execute(),
    );
  }
}
