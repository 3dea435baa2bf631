import { expect } from "@jest/globals";
import type { Fleet } from "../support/fleet.ts";
import type { MayflyProcess } from "../support/processes.ts";

/** Logins and tokens that end within seconds, and a task with one more of each that will be ended by hand. */
export async function mintSome(fleet: Fleet, api: MayflyProcess): Promise<{ taskId: string }> {
  const short = await fleet.openTask(api);
  const long = await fleet.openTask(api);
  const token = (taskId: string, ttl: number) =>
    fleet.call(api, fleet.seeded.agentSub, "POST", "/v1/credentials", {
      task_id: taskId,
      target: "tickets-api",
      actions: ["read"],
      resources: ["tickets"],
      ttl_seconds: ttl,
    });
  const answers = await Promise.all([
    ...Array.from({ length: 4 }, () => fleet.mint(api, short, 6)),
    ...Array.from({ length: 10 }, () => token(short, 4)),
    fleet.mint(api, long, 600),
    token(long, 600),
  ]);
  expect(answers.map((answer) => answer?.status)).toEqual(Array.from({ length: 16 }, () => 201));
  return { taskId: long };
}

/** Ends the task whose credentials would live on, whatever state the queue is in. */
export async function endIt(fleet: Fleet, api: MayflyProcess, taskId: string): Promise<void> {
  const ended = await fleet.call(api, "orchestrator", "POST", `/v1/tasks/${taskId}/end`, { outcome: "completed" });
  expect(ended?.status).toBe(200);
}
