import { z } from "zod";
import type { Db } from "../db/database.ts";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { idSchema, moment, prose } from "../http/wire.ts";
import type { WakeUps } from "../queue/queue.ts";
import { changeTask, endTaskById, heartbeat } from "./change-task.ts";
import { openTask, readTask } from "./open-task.ts";

export interface TaskDeps {
  readonly db: Db;
  readonly wakeUps: WakeUps;
}

const openBody = z.strictObject({
  agent_id: idSchema("agent"),
  purpose_id: idSchema("purpose"),
  objective: prose(2000).describe("For people. It never grants anything."),
  initiated_by: z.strictObject({ kind: z.enum(["human", "system"]), id: z.string().min(1).max(256) }),
  deadline: moment.describe("At most 30 days ahead. Nothing minted for the task outlives it."),
  heartbeat_seconds: z
    .int()
    .min(1)
    .max(86_400)
    .optional()
    .describe("The task ends when no heartbeat came for so long."),
  budget: z
    .strictObject({
      max_credentials: z.int().min(1).max(1_000_000).optional(),
      max_per_minute: z.int().min(1).max(1_000_000).optional(),
      max_live_seconds: z.int().min(1).max(2_000_000_000).optional(),
    })
    .optional(),
});
export type OpenTask = z.infer<typeof openBody>;

/** The outcomes that an orchestrator can give. `deadline` and `heartbeat_lost` are Mayfly's own. */
const givenOutcomes = ["completed", "failed", "cancelled", "deviation", "killed"] as const;

const taskReply = z.strictObject({
  id: idSchema("task"),
  agent_id: idSchema("agent"),
  purpose_id: idSchema("purpose"),
  state: z.enum(["open", "paused", "ended"]),
  outcome: z.enum([...givenOutcomes, "deadline", "heartbeat_lost"]).nullable(),
  objective: z.string(),
  initiated_by: z.strictObject({ kind: z.enum(["human", "system"]), id: z.string() }),
  opened_by: z.string(),
  ended_by: z.string().nullable(),
  created_at: moment,
  ended_at: moment.nullable(),
  deadline: moment,
  heartbeat_seconds: z.int().nullable(),
  heartbeat_due_at: moment.nullable(),
  budget: z.strictObject({
    max_credentials: z.int().nullable(),
    max_per_minute: z.int().nullable(),
    max_live_seconds: z.int().nullable(),
  }),
  used: z.strictObject({ credentials: z.int(), live_seconds: z.int() }),
  credentials: z
    .strictObject({ live: z.int(), revoking: z.int(), stuck: z.int(), dead: z.int() })
    .describe("When live and revoking are 0, everything that the task was given is proven dead."),
  version: z.int(),
});
export type TaskReply = z.infer<typeof taskReply>;

const byId = z.strictObject({ task_id: idSchema("task") });

/** Orchestrators open, pause and end tasks; the task's own agent keeps it alive. */
export function taskEndpoints({ db, wakeUps }: TaskDeps): Endpoint[] {
  const act = (action: "pause" | "resume"): Endpoint =>
    endpoint({
      method: "post",
      path: `/v1/tasks/{task_id}/${action}`,
      summary:
        action === "pause"
          ? "Pause a task: no mints, and everything it holds is taken back"
          : "Let a paused task mint again",
      tag: "tasks",
      allow: ["orchestrator", "admin"],
      params: byId,
      replies: { 200: taskReply },
      async handle({ principal, params, requestId }) {
        const task = await changeTask(db, principal, params.task_id, action, requestId);
        wakeUps.now();
        return { status: 200, body: task, etag: task.version };
      },
    });

  return [
    endpoint({
      method: "post",
      path: "/v1/tasks",
      summary: "Open a task for an agent under a purpose",
      tag: "tasks",
      allow: ["orchestrator", "admin"],
      body: openBody,
      replies: { 201: taskReply },
      async handle({ principal, body, requestId }) {
        const task = await openTask(db, principal, body, requestId);
        return { status: 201, body: task, etag: task.version, headers: { location: `/v1/tasks/${task.id}` } };
      },
    }),
    endpoint({
      method: "get",
      path: "/v1/tasks/{task_id}",
      summary: "A task, what it used, and whether everything it was given is dead",
      tag: "tasks",
      allow: ["agent", "orchestrator", "auditor", "admin"],
      params: byId,
      replies: { 200: taskReply },
      async handle({ principal, params }) {
        const task = await readTask(db, principal, params.task_id);
        return { status: 200, body: task, etag: task.version };
      },
    }),
    endpoint({
      method: "post",
      path: "/v1/tasks/{task_id}/heartbeat",
      summary: "Say that the task is still being worked on",
      tag: "tasks",
      allow: ["agent", "orchestrator"],
      params: byId,
      replies: { 200: z.strictObject({ heartbeat_due_at: moment.nullable() }) },
      async handle({ principal, params, requestId }) {
        return { status: 200, body: { heartbeat_due_at: await heartbeat(db, principal, params.task_id, requestId) } };
      },
    }),
    act("pause"),
    act("resume"),
    endpoint({
      method: "post",
      path: "/v1/tasks/{task_id}/end",
      summary: "End a task with its outcome; everything it holds is taken back. Ending twice is harmless",
      tag: "tasks",
      allow: ["orchestrator", "admin"],
      params: byId,
      body: z.strictObject({ outcome: z.enum(givenOutcomes) }),
      replies: { 200: taskReply },
      async handle({ principal, params, body, requestId }) {
        const task = await endTaskById(db, principal, params.task_id, body.outcome, requestId);
        wakeUps.now();
        return { status: 200, body: task, etag: task.version };
      },
    }),
  ];
}
