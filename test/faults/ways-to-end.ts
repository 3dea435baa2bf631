import type { Id } from "../../src/lib/ids.ts";
import type { Answer } from "../support/fleet.ts";
import type { Racer } from "../support/racer.ts";

/** What a way to end finds: one credential of each kind, minted by an agent that has nothing else. */
export interface Doomed {
  readonly agent: Racer;
  readonly taskId: string;
  /** Whom the agent has what it minted from, with `parentId`; it is nobody else's. */
  readonly parent: Racer;
  readonly parentId: string | undefined;
  readonly ids: readonly string[];
  /** Targets of this way alone, one of each kind. */
  readonly targetIds: readonly Id<"target">[];
  call(who: string, method: string, path: string, body?: object): Promise<Answer>;
}

/** One way to end credentials. Without `end` they end by themselves. */
export interface Way {
  readonly reason: string;
  readonly by: string;
  /** Its credentials are minted from a token of another agent, with this life. */
  readonly fromParent?: { readonly ttlSeconds?: number };
  readonly ttlSeconds?: number;
  readonly heartbeatSeconds?: number;
  /** It ends whole targets, so it has some of its own. */
  readonly ownTargets?: true;
  end?(doomed: Doomed): Promise<readonly Answer[]>;
}

/** Long enough to mint one of each kind on a busy machine. */
const SHORT_SECONDS = 15;

const WORKER = "mayfly:worker";
const staff = { by: "admin" } as const;

/** One call. */
const post =
  (path: (doomed: Doomed) => string, body?: object | ((doomed: Doomed) => object), who = "admin") =>
  async (doomed: Doomed) => [
    await doomed.call(who, "POST", path(doomed), typeof body === "function" ? body(doomed) : body),
  ];
const kill = (selector: (doomed: Doomed) => object) =>
  post(
    () => "/v1/revocations",
    (doomed) => ({ selector: selector(doomed), reason: "the matrix", block_seconds: 1 }),
  );
/** One call for each credential, or each target. */
const each =
  <Of extends "ids" | "targetIds">(of: Of, make: (one: string, doomed: Doomed) => Promise<readonly Answer[]>) =>
  async (doomed: Doomed) =>
    (await Promise.all(doomed[of].map((one) => make(one, doomed)))).flat();
const agentState = (state: string) => post(({ agent }) => `/v1/agents/${agent.agentId}/state`, { state });
const targetState = (state: string) =>
  each("targetIds", (id, doomed) => post(() => `/v1/targets/${id}/state`, { state })(doomed));

/** Ways that take their time. */
export const aShortLife: Readonly<Record<string, Way>> = {
  "its end has come": { reason: "ttl", by: WORKER, ttlSeconds: SHORT_SECONDS },
  "the end of its parent has come": { reason: "ttl", by: WORKER, fromParent: { ttlSeconds: SHORT_SECONDS } },
  "the task's heartbeat is lost": { reason: "task_ended", by: WORKER, heartbeatSeconds: SHORT_SECONDS },
};

/** Ways that somebody takes. */
export const atOnce: Readonly<Record<string, Way>> = {
  "given back by its agent": {
    reason: "released",
    by: "its agent",
    end: each("ids", (id, doomed) =>
      post(() => `/v1/credentials/${id}/release`, undefined, doomed.agent.token)(doomed),
    ),
  },
  revoked: {
    reason: "revoked",
    ...staff,
    end: each("ids", (id, doomed) => post(() => `/v1/credentials/${id}/revoke`)(doomed)),
  },
  "its task has ended": {
    reason: "task_ended",
    ...staff,
    end: post(({ taskId }) => `/v1/tasks/${taskId}/end`, { outcome: "completed" }),
  },
  "its task is paused": { reason: "task_paused", ...staff, end: post(({ taskId }) => `/v1/tasks/${taskId}/pause`) },
  "its purpose is retired": {
    reason: "task_ended",
    ...staff,
    end: post(({ agent }) => `/v1/purposes/${agent.purposeId}/retire`),
  },
  "its agent is suspended": { reason: "agent_inactive", ...staff, end: agentState("suspended") },
  "its agent is quarantined": { reason: "agent_inactive", ...staff, end: agentState("quarantined") },
  "its agent is retired": { reason: "agent_inactive", ...staff, end: agentState("retired") },
  "its owner has departed": {
    reason: "owner_departed",
    ...staff,
    end: post(({ agent }) => `/v1/owners/${agent.ownerId}/depart`),
  },
  "its identity is removed": {
    reason: "identity_removed",
    ...staff,
    end: async ({ agent, call }) => [await call("admin", "DELETE", `/v1/identities/${agent.identityId}`)],
  },
  "its target is suspended": {
    reason: "target_inactive",
    ...staff,
    ownTargets: true,
    end: targetState("suspended"),
  },
  "its target is retired": { reason: "target_inactive", ...staff, ownTargets: true, end: targetState("retired") },
  "its agent is killed": { reason: "killed", ...staff, end: kill(({ agent }) => ({ agent_id: agent.agentId })) },
  "its owner is killed": { reason: "killed", ...staff, end: kill(({ agent }) => ({ owner_id: agent.ownerId })) },
  "its task is killed": { reason: "killed", ...staff, end: kill(({ taskId }) => ({ task_id: taskId })) },
  "its purpose is killed": { reason: "killed", ...staff, end: kill(({ agent }) => ({ purpose_id: agent.purposeId })) },
  "its identity is killed": {
    reason: "killed",
    ...staff,
    end: kill(({ agent }) => ({ identity_id: agent.identityId })),
  },
  "its target is killed": {
    reason: "killed",
    ...staff,
    ownTargets: true,
    end: each("targetIds", (id, doomed) => kill(() => ({ target_id: id }))(doomed)),
  },
  "all that it is, is killed": {
    reason: "killed",
    ...staff,
    end: kill(({ agent }) => ({ agent_id: agent.agentId, environment: "staging", data_class: "internal" })),
  },
  "its parent is given back": {
    reason: "released",
    by: "its parent's agent",
    fromParent: {},
    end: async (doomed) =>
      post(() => `/v1/credentials/${doomed.parentId}/release`, undefined, doomed.parent.token)(doomed),
  },
  "its parent is revoked": {
    reason: "revoked",
    ...staff,
    fromParent: {},
    end: post(({ parentId }) => `/v1/credentials/${parentId}/revoke`),
  },
  "the task of its parent has ended": {
    reason: "task_ended",
    ...staff,
    fromParent: {},
    end: post(({ parent }) => `/v1/tasks/${parent.taskId}/end`, { outcome: "failed" }),
  },
  "the agent of its parent is suspended": {
    reason: "agent_inactive",
    ...staff,
    fromParent: {},
    end: post(({ parent }) => `/v1/agents/${parent.agentId}/state`, { state: "suspended" }),
  },
  "the owner of its parent has departed": {
    reason: "owner_departed",
    ...staff,
    fromParent: {},
    end: post(({ parent }) => `/v1/owners/${parent.ownerId}/depart`),
  },
  "the agent of its parent is killed": {
    reason: "killed",
    ...staff,
    fromParent: {},
    end: kill(({ parent }) => ({ agent_id: parent.agentId })),
  },
};

/** The last way: it leaves nothing. */
export const everything: Readonly<Record<string, Way>> = {
  "everything is killed": { reason: "killed", ...staff, end: kill(() => ({ everything: true })) },
};
