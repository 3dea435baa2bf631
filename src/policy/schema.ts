/**
 * The Cedar schema that every published policy is validated against, in strict mode. It is text in a TypeScript file
 * because tsc copies nothing else into `dist/`.
 *
 * Words with a closed list of values are Strings, not enumerated entities: Cedar parses each entity reference of a
 * request for some 50 µs, a string for 10. `closedValues` gives the safety back when a policy is published.
 */
export const cedarSchema = `
// What agents belong to (the object of any of their relationships, or of their teams') and what resources belong to
// (their groups). Group::"tea_…" and Group::"finance" alike.
entity Group;

entity Agent in [Group] {
  kind: String,               // agent, model, connector, service_account, secret_issuer
  name: String,
  environment: String,        // production, staging, development
  owner: String,              // own_…
  relations: Set<Relation>,   // principal.relations.contains({ relation: "member", object: "tea_…" })
};

entity Resource in [Group] {
  kind: String,               // what the registry calls it: table, api, tool, …
  name: String,
  classification: String,     // public, internal, confidential, restricted
  environment: String,        // production, staging, development
  risk: String,               // low, medium, high
};

type Relation = { relation: String, object: String };

type Request = {
  operation: String,          // the resource's own name for what is done
  data_class: String,         // the resource's classification
  environment: String,        // the resource's environment
  ttl_seconds: Long,          // how long the credential would live
  binding: String,            // how the caller is bound to its token: bearer, dpop, mtls
  delegation_depth: Long,     // 0 for an agent that acts for its own task
  approvals: Set<String>,     // approver groups that have approved exactly this request
  purpose: { id: String, name: String, max_ttl_seconds: Long },
  task: { id: String, initiated_by: String },                   // human, system
  target: { id: String, issuer: String, revocability: String }, // immediate, expiry
};

action "read", "write", "delete", "execute", "deploy", "pay", "grant_access", "admin" appliesTo {
  principal: [Agent],
  resource: [Resource],
  context: Request,
};
`;
