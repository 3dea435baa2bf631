/**
 * What a tenant's keys are for: one key signs for one purpose, and a purpose is one `typ` (RFC 8725 §3.11), so that a
 * key that is allowed to say one thing can never be made to say another (reliability D14). `longestSeconds` is how far
 * ahead the `exp` of what it signs may be, and how long something without an `exp` can still be verified.
 */
export const keyPurposes = {
  /** RFC 9068. No configuration lets a credential live for more than a day. */
  access_token: { typ: "at+jwt", longestSeconds: 86_400 },
  admin_token: { typ: "mayfly-admin+jwt", longestSeconds: 900 },
  /** RFC 9701. It has no `exp`: this is how long it can be verified after its key was replaced. */
  introspection: { typ: "token-introspection+jwt", longestSeconds: 3_600 },
  /** draft-ietf-oauth-status-list. */
  status_list: { typ: "statuslist+jwt", longestSeconds: 3_600 },
} as const;

export type KeyPurpose = keyof typeof keyPurposes;

/** The JOSE `typ`s that the tenant's keys sign. */
export type TokenTyp = (typeof keyPurposes)[KeyPurpose]["typ"];

export const keyPurposeNames = Object.keys(keyPurposes) as [KeyPurpose, ...KeyPurpose[]];
