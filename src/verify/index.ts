// What `mayfly/verify` is: the way in for APIs that take Mayfly's access tokens (docs/verify.md).
export type { Access, Operation, Outcome, TaskGrant } from "./access.ts";
export type { Authorization } from "./broker-http.ts";
export type { Call } from "./call.ts";
export type { Problem } from "./problem.ts";
export { accessOf, protect } from "./protect.ts";
export { type AccessRefusalCode, AccessRefused } from "./refusal.ts";
export type { ReplayStore } from "./replays.ts";
export { type ResourceMetadata, serveMetadata } from "./resource-metadata.ts";
export { createVerifier, type Verifier, type VerifierState } from "./verifier.ts";
export type { VerifierOptions } from "./verifier-options.ts";
