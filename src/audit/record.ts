import type { Db } from "../db/database.ts";

/** An event that describes no row: a refused request or a refused proof. Fields are an allow-list; no bodies, no tokens. */
export interface AuditEvent {
  readonly type: string;
  readonly actor: string;
  readonly subject_id?: string;
  readonly agent_id?: string;
  readonly task_id?: string;
  readonly request_id?: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** Appends an event and resolves when it is committed. A rejection means it was not: the caller answers 503 (invariant 8). */
export type RecordEvent = (tenantId: string, event: AuditEvent) => Promise<unknown>;

/** Events that arrive together share a commit, so that a flood of refusals costs few of them. */
export function createRecorder(db: Db): RecordEvent {
  return db.batched<AuditEvent, unknown>("record_events");
}
