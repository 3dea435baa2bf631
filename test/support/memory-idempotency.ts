import type { Begun, IdempotencyScope, IdempotencyStore, StoredReply } from "../../src/http/idempotency.ts";

interface Entry {
  readonly fingerprint: string;
  readonly lease: string;
  readonly reply?: StoredReply;
}

/** Idempotency keys in memory, for tests that need no database. It forgets nothing and no lease runs out. */
export function memoryIdempotency(): IdempotencyStore & { readonly size: number } {
  const entries = new Map<string, Entry>();
  let leases = 0;
  const nameOf = (scope: IdempotencyScope) => JSON.stringify([scope.tenantId, scope.subject, scope.route, scope.key]);
  const holds = (scope: IdempotencyScope, lease: string) => entries.get(nameOf(scope))?.lease === lease;

  return {
    get size() {
      return entries.size;
    },
    async begin(scope, fingerprint): Promise<Begun> {
      const present = entries.get(nameOf(scope));
      if (present === undefined) {
        leases += 1;
        entries.set(nameOf(scope), { fingerprint, lease: String(leases) });
        return { state: "new", lease: String(leases) };
      }
      if (present.fingerprint !== fingerprint) return { state: "mismatch" };
      return present.reply === undefined ? { state: "running" } : { state: "done", reply: present.reply };
    },
    async finish(scope, lease, reply) {
      const present = entries.get(nameOf(scope));
      if (present !== undefined && holds(scope, lease)) entries.set(nameOf(scope), { ...present, reply });
    },
    async abandon(scope, lease) {
      if (holds(scope, lease)) entries.delete(nameOf(scope));
    },
  };
}
