import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { type KubernetesAnswer, type KubernetesLane, notKubernetes } from "./kubernetes-client.ts";

/** One right in the target's namespace, as RBAC has it. */
interface Right {
  readonly verb: string;
  readonly resource: "secrets" | "serviceaccounts/token";
  readonly name?: string;
}

const reviewed = z.object({ status: z.object({ allowed: z.boolean() }) });

/**
 * Whether Mayfly can mint and take back in this namespace, and do no more than that. Throws `target_refused` with the rules that
 * the broker's Role lacks, as YAML.
 */
export async function inspectKubernetes(
  lane: KubernetesLane,
  namespace: string,
  access: readonly { readonly service_account: string }[],
  signal: AbortSignal,
): Promise<void> {
  const accounts = [...new Set(access.map(({ service_account }) => service_account))].sort();
  const needed: readonly Right[] = [
    ...["create", "get", "list", "delete"].map((verb) => ({ verb, resource: "secrets" }) as const),
    ...accounts.map((name) => ({ verb: "create", resource: "serviceaccounts/token", name }) as const),
  ];
  const allowed = await Promise.all(needed.map((right) => may(lane, namespace, right, signal)));
  const missing = needed.filter((_, index) => allowed[index] !== true);
  if (missing.length > 0)
    throw refused(`the broker's Role in namespace ${namespace} lacks: ${missing.map(rule).join(" ")}`);
  // Without a name: every account, also one that may do more than any agent should.
  if (await may(lane, namespace, { verb: "create", resource: "serviceaccounts/token" }, signal))
    throw refused(
      `the broker may make tokens of every account in namespace ${namespace}: name them, ${rule({
        verb: "create",
        resource: "serviceaccounts/token",
        name: accounts.join(", "),
      })}`,
    );
}

async function may(lane: KubernetesLane, namespace: string, right: Right, signal: AbortSignal): Promise<boolean> {
  const [resource, subresource] = right.resource.split("/");
  const attributes = { namespace, verb: right.verb, group: "", resource, subresource, name: right.name };
  const answer = await lane.call(
    {
      method: "POST",
      path: ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"],
      body: {
        apiVersion: "authorization.k8s.io/v1",
        kind: "SelfSubjectAccessReview",
        spec: { resourceAttributes: attributes },
      },
    },
    signal,
  );
  if (answer.status === 403)
    throw refused("the broker cannot ask for its own rights: bind ClusterRole system:basic-user to it");
  if (!answer.ok) throw answer.refusal("the broker's rights could not be read");
  const parsed = reviewed.safeParse(answer.body);
  if (!parsed.success) throw notKubernetes();
  return parsed.data.status.allowed;
}

/** What to say of a refused call, for its error: on a 403 the rule that the Role lacks. */
export function denied(answer: KubernetesAnswer, right: Right): string {
  return answer.status === 403 ? `the broker's Role lacks: ${rule(right)}` : `${right.verb} ${right.resource}`;
}

/** One rule of a Role, as an item of `rules`. */
function rule({ verb, resource, name }: Right): string {
  const names = name === undefined ? "" : `, resourceNames: [${name}]`;
  return `- { apiGroups: [""], resources: [${resource}], verbs: [${verb}]${names} }`;
}

function refused(detail: string): MayflyError {
  return new MayflyError("target_refused", detail);
}
