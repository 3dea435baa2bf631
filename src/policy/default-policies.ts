/**
 * The policies that a tenant starts with, until it publishes its own. They are policies like any other: nothing here
 * is built in, so all of it can be read, changed and replayed.
 */
export const defaultPolicies = `
// =====================================================================================================================
// Before any of this is asked, Mayfly has checked its records: the agent, its owner and the target are active, the
// task is open, the purpose is approved and covers this action, this resource, this data class and this environment.
// Policies only narrow that. Nothing is allowed unless a permit says so, and any forbid wins over every permit.
//
// @id       names a policy in decisions, refusals and the audit trail. Never reuse one for another rule.
// @reason   is what the caller reads when the policy refuses.
// @remedy   what would lift a forbid: "ttl:<seconds>" (the credential is shortened and judged again),
//           "approval:<approver group>" (a human is asked), "dpop" (the caller must prove possession of a key).
//           A forbid without a remedy is final.
// =====================================================================================================================


// ---- What is allowed ------------------------------------------------------------------------------------------------

@id("permit-reads")
@reason("Agents may read what their purpose covers.")
permit (principal, action == Action::"read", resource);

@id("permit-writes-and-executes")
@reason("Agents may change and run what their purpose covers.")
permit (principal, action in [Action::"write", Action::"execute"], resource);

// The approval is asked for here as well as below, so that losing the forbid opens nothing.
@id("permit-high-impact-once-approved")
@reason("High-impact actions are allowed once the owners of the resource have approved them.")
permit (
  principal,
  action in [Action::"delete", Action::"deploy", Action::"pay", Action::"grant_access", Action::"admin"],
  resource
)
when { context.approvals.contains("resource-owners") };


// ---- What needs a human ---------------------------------------------------------------------------------------------

@id("high-impact-needs-approval")
@reason("Deleting, deploying, paying, granting access and administering need an approval by the owners of the resource.")
@remedy("approval:resource-owners")
forbid (
  principal,
  action in [Action::"delete", Action::"deploy", Action::"pay", Action::"grant_access", Action::"admin"],
  resource
)
unless { context.approvals.contains("resource-owners") };

@id("sensitive-changes-need-approval")
@reason("Changing a high-risk or restricted resource, or running something on it, needs an approval by its owners.")
@remedy("approval:resource-owners")
forbid (principal, action in [Action::"write", Action::"execute"], resource)
when { resource.risk == "high" || resource.classification == "restricted" }
unless { context.approvals.contains("resource-owners") };


// ---- What is never allowed ------------------------------------------------------------------------------------------

@id("production-is-for-production-agents")
@reason("Only agents registered for production reach production resources.")
forbid (principal, action, resource)
when { resource.environment == "production" && principal.environment != "production" };

@id("no-deep-delegation")
@reason("A credential may be delegated three times at most: beyond that nobody can say who is acting.")
forbid (principal, action, resource)
when { context.delegation_depth > 3 };


// ---- How long a credential may live ---------------------------------------------------------------------------------
// These never refuse: the credential is shortened.

@id("one-hour-at-most")
@reason("No credential lives longer than an hour: a longer task asks again.")
@remedy("ttl:3600")
forbid (principal, action, resource)
when { context.ttl_seconds > 3600 };

@id("short-if-it-cannot-be-taken-back")
@reason("A credential that its target cannot take back early lives 15 minutes at most.")
@remedy("ttl:900")
forbid (principal, action, resource)
when { context.target.revocability == "expiry" && context.ttl_seconds > 900 };

@id("short-for-high-impact")
@reason("A credential for a high-impact action lives 15 minutes at most.")
@remedy("ttl:900")
forbid (
  principal,
  action in [Action::"delete", Action::"deploy", Action::"pay", Action::"grant_access", Action::"admin"],
  resource
)
when { context.ttl_seconds > 900 };

@id("short-for-bearers")
@reason("A caller that proves itself with a bare bearer token gets 5 minutes at most: a stolen token would serve as well.")
@remedy("ttl:300")
forbid (principal, action, resource)
when { context.binding == "bearer" && context.ttl_seconds > 300 };
`;
