import type { Tx } from "../db/database.ts";
import type { Principal } from "../identity/principal.ts";
import type { Columns, Row } from "../registry/collection.ts";
import { issuerOf } from "./target-parts.ts";

/** What a reply about targets holds beside their own rows: what they reach, and how many credentials are not dead. */
export async function readTargetMembers(
  tx: Tx,
  rows: readonly Row<"targets">[],
  { tenantId }: Principal,
): Promise<ReadonlyMap<string, Columns>> {
  if (rows.length === 0) return new Map();
  const ids = rows.map(({ id }) => id);
  const reached = await tx
    .selectFrom("target_resources")
    .select(["target_id", "resource_id", "access"])
    .where("tenant_id", "=", tenantId)
    .where("target_id", "in", ids)
    .orderBy("resource_id")
    .execute();
  const counted = await tx
    .selectFrom("credentials")
    .select((eb) => [
      "target_id",
      eb.fn.countAll<string>().as("live"),
      eb.fn.countAll<string>().filterWhere("stuck", "=", true).as("stuck"),
    ])
    .where("tenant_id", "=", tenantId)
    .where("target_id", "in", ids)
    .where("due_at", "is not", null)
    .groupBy("target_id")
    .execute();
  return new Map(
    rows.map(({ id, issuer, config }) => {
      const counts = counted.find((one) => one.target_id === id);
      const own = reached.filter((one) => one.target_id === id);
      return [
        id,
        {
          resources: own.map(({ resource_id, access }) => ({ resource: resource_id, access })),
          revocability: issuerOf(issuer).bounds(config).revocability,
          live: Number(counts?.live ?? 0),
          stuck: Number(counts?.stuck ?? 0),
        },
      ];
    }),
  );
}
