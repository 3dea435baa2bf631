import { z } from "zod";
import { type Endpoint, endpoint } from "../http/endpoint.ts";
import { type IntrospectDeps, introspect } from "./introspect.ts";

/** Token introspection (RFC 7662) for tools and APIs that accept our tokens. */
export function introspectionEndpoints(deps: IntrospectDeps): Endpoint[] {
  return [
    endpoint({
      method: "post",
      path: "/oauth/introspect",
      summary: "Whether a token that Mayfly signed is alive at this moment",
      tag: "oauth",
      allow: ["agent", "orchestrator", "auditor", "admin"],
      remembersCaller: true,
      bodyKind: "form",
      errors: "oauth",
      // RFC 6749 §3.2: unknown parameters are ignored, here and at every OAuth endpoint.
      body: z.object({ token: z.string().min(1), token_type_hint: z.string().optional() }),
      replies: { 200: z.looseObject({ active: z.boolean() }) },
      async handle(call) {
        return { status: 200, body: await introspect(deps, call, call.body.token) };
      },
    }),
  ];
}
