import type { Id } from "../../src/lib/ids.ts";
import { type CompiledPolicies, compile } from "../../src/policy/compile.ts";
import type { ActionClass, PolicyAction, PolicyDecision, PolicyInput } from "../../src/policy/request.ts";

/** One file below ALLOW, DENY or ALLOW_IF. */
export interface Case {
  readonly expect: Pick<PolicyDecision, "ttlSeconds" | "determining"> & {
    readonly reasons?: readonly { readonly code: string; readonly policy?: string; readonly remedy?: string }[];
  };
  readonly input: PolicyInput;
}

const hex = (n: number): string => n.toString(16).padStart(32, "0");

/** Policies of one tenant, compiled as they are. */
export function compiled(text: string, version = 1): CompiledPolicies {
  return compile({ tenantId: `ten_${hex(1)}` as Id<"tenant">, version, text });
}

/** An action on a harmless resource, unless told otherwise. */
export function anAction(actionClass: ActionClass, resource: Partial<PolicyAction["resource"]> = {}): PolicyAction {
  return {
    operation: actionClass,
    actionClass,
    resource: {
      id: `res_${hex(2)}` as Id<"resource">,
      name: "invoices",
      kind: "table",
      classification: "internal",
      environment: "staging",
      risk: "low",
      groups: ["finance"],
      ...resource,
    },
  };
}

/** A read of a harmless resource for five minutes by a caller with DPoP, unless told otherwise. */
export function anInput(differences: Partial<PolicyInput> = {}): PolicyInput {
  return {
    agent: {
      id: `agt_${hex(3)}` as Id<"agent">,
      kind: "agent",
      name: "reporter",
      environment: "staging",
      ownerId: `own_${hex(4)}` as Id<"owner">,
    },
    relationships: [],
    purpose: { id: `pur_${hex(5)}` as Id<"purpose">, name: "Monthly report", maxTtlSeconds: 3600 },
    task: { id: `tsk_${hex(6)}` as Id<"task">, initiatedBy: "human" },
    target: { id: `tgt_${hex(7)}` as Id<"target">, issuer: "postgres", revocability: "immediate" },
    actions: [anAction("read")],
    ttlSeconds: 300,
    binding: "dpop",
    delegationDepth: 0,
    approvals: [],
    ...differences,
  };
}
