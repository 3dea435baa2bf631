import { z } from "zod";
import { idSchema, moment, prose } from "../lib/wire.ts";

/** What an orchestrator says to open a task. */
export const openTaskBody = z.strictObject({
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
export type OpenTask = z.infer<typeof openTaskBody>;

/** The outcomes that an orchestrator can give. `deadline` and `heartbeat_lost` are Mayfly's own. */
export const givenOutcomes = ["completed", "failed", "cancelled", "deviation", "killed"] as const;

/** A task as the API shows it. */
export const taskReply = z.strictObject({
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
