import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { Secret } from "../lib/secret.ts";
import { type KubernetesLane, notKubernetes } from "./kubernetes-client.ts";
import { denied } from "./kubernetes-inspect.ts";

/** TokenRequest's minimum. A shorter credential's token would live on; the Secret that it is bound to ends it in time. */
const TOKEN_MIN_SECONDS = 600;
/** The token's own end comes a little after the credential's, so that a revoke in time is what ends it. */
const GRACE_SECONDS = 5;
/** The API server accepts a token for a minute after its `exp`. */
const LEEWAY_SECONDS = 60;
/** How long after a credential's end its token may be accepted when nobody deletes the Secret. */
export const LIVES_ON_SECONDS = TOKEN_MIN_SECONDS + GRACE_SECONDS + LEEWAY_SECONDS;

interface Wanted {
  readonly service_account: string;
  readonly audiences?: readonly string[] | undefined;
}

const tokenMade = z.object({
  spec: z.object({ boundObjectRef: z.object({ kind: z.string(), name: z.string(), uid: z.string() }) }),
  status: z.object({ token: z.string().min(1), expirationTimestamp: z.iso.datetime() }),
});

/**
 * Has the API server make a token of the account that is bound to this Secret. `endsAtMs` is its `exp`, in milliseconds since
 * 1970. Rejects a token that is not bound or lives longer than it was asked to.
 */
export async function requestToken(
  lane: KubernetesLane,
  namespace: string,
  bound: { readonly name: string; readonly uid: string },
  { service_account: account, audiences }: Wanted,
  expiresAt: Date,
  signal: AbortSignal,
): Promise<{ readonly token: Secret; readonly endsAtMs: number }> {
  const startedAtMs = Date.now();
  const lives = Math.ceil((expiresAt.getTime() - startedAtMs) / 1000) + GRACE_SECONDS;
  const expirationSeconds = Math.max(TOKEN_MIN_SECONDS, lives);
  const answer = await lane.call(
    {
      method: "POST",
      path: ["api", "v1", "namespaces", namespace, "serviceaccounts", account, "token"],
      body: {
        apiVersion: "authentication.k8s.io/v1",
        kind: "TokenRequest",
        spec: {
          ...(audiences === undefined ? {} : { audiences }),
          expirationSeconds,
          boundObjectRef: { kind: "Secret", apiVersion: "v1", ...bound },
        },
      },
    },
    signal,
  );
  if (answer.reason === "NotFound" && answer.about.kind === "serviceaccounts")
    throw answer.refusal(`there is no service account ${account} in namespace ${namespace}`);
  if (!answer.ok)
    throw answer.refusal(denied(answer, { verb: "create", resource: "serviceaccounts/token", name: account }));
  const parsed = tokenMade.safeParse(answer.body);
  if (!parsed.success) throw notKubernetes();
  const { spec, status } = parsed.data;
  if (spec.boundObjectRef.kind !== "Secret" || spec.boundObjectRef.uid !== bound.uid)
    throw new MayflyError("target_rejected", "the API server made a token that is not bound, so nothing would end it");
  const endsAtMs = Date.parse(status.expirationTimestamp);
  if (endsAtMs > startedAtMs + (expirationSeconds + LEEWAY_SECONDS) * 1000)
    throw new MayflyError("target_rejected", "the API server made a token that lives longer than it was asked to");
  return { token: new Secret(status.token), endsAtMs };
}
