import type { Parent } from "./delegation.ts";

/** Who acts, and through whom (RFC 8693 §4.1): newest outermost. Only the outermost may decide anything. */
export interface Actor {
  readonly sub: string;
  readonly iss: string;
  readonly act?: Actor;
}

/**
 * The claims that say for whom a token is and who uses it. A token minted from another one keeps its subject, the agent
 * that the chain began with, and names every agent that it went through; it is never the subject's own (RFC 8693 §1.1:
 * delegation, not impersonation).
 */
export function partiesOf(
  agentId: string,
  parent: Parent | undefined,
  issuer: string,
): { readonly sub: string; readonly act?: Actor } {
  if (parent === undefined) return { sub: agentId };
  const [root, ...between] = parent.chain.map((link) => link.agent_id);
  const earlier = between.reduce<Actor | undefined>((act, sub) => actor(sub, issuer, act), undefined);
  return { sub: root ?? agentId, act: actor(agentId, issuer, earlier) };
}

function actor(sub: string, iss: string, act: Actor | undefined): Actor {
  return act === undefined ? { sub, iss } : { sub, iss, act };
}
