import { z } from "zod";
import type { Db } from "../db/database.ts";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { idSchema, moment } from "../lib/wire.ts";
import type { WakeUps } from "../queue/queue.ts";
import { changeTask, endTaskById, heartbeat } from "./change-task.ts";
import { openTask, readTask } from "./open-task.ts";
import { givenOutcomes, openTaskBody, taskReply } from "./task.ts";

export interface TaskDeps {
  readonly db: Db;
  readonly wakeUps: WakeUps;
}

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
      body: openTaskBody,
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
