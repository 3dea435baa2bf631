import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { Secret } from "../lib/secret.ts";
import { openTargetConnections, refusalOf } from "./target-fetch.ts";
import { readMountedToken } from "./target-origin.ts";

/** One call of the API server. `path` is in segments, which are encoded here. */
export interface KubernetesCall {
  readonly method: "GET" | "POST" | "DELETE";
  readonly path: readonly string[];
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  /** Asks for an object's metadata alone: what a Secret holds is not sent. */
  readonly metadata?: "PartialObjectMetadata" | "PartialObjectMetadataList";
}

/** What came back, whatever its status. */
export interface KubernetesAnswer {
  readonly ok: boolean;
  readonly status: number;
  readonly body: unknown;
  /** The `reason` of the API's own Status object (`NotFound`, `AlreadyExists`). Undefined when something else answered. */
  readonly reason: string | undefined;
  /** Of which thing it is said: kind and name. */
  readonly about: { readonly kind?: string | undefined; readonly name?: string | undefined };
  /** What the answer means when it is not the wanted one. `detail` must hold nothing that the API server sent. */
  refusal(detail?: string): MayflyError;
}

/** The API server for one sort of work, over connections of its own. */
export interface KubernetesLane extends AsyncDisposable {
  call(call: KubernetesCall, signal: AbortSignal): Promise<KubernetesAnswer>;
}

const CALLED = "Kubernetes";
const status = z.object({
  kind: z.literal("Status"),
  apiVersion: z.literal("v1"),
  reason: z.string().optional(),
  code: z.number(),
  details: z.object({ kind: z.string().optional(), name: z.string().optional() }).optional(),
});

/** Opens a lane. Nothing is sent before the first call. `token` absent: the mounted one, read at every call. */
export function openKubernetes({
  url: origin,
  ca,
  token,
}: {
  readonly url: string;
  readonly ca?: string | undefined;
  readonly token?: string | undefined;
}): KubernetesLane {
  const connections = openTargetConnections({ origin, ca, called: CALLED });
  return {
    async call({ method, path, query, body, metadata }, signal) {
      const bearer = token === undefined ? await readMountedToken(origin) : new Secret(token);
      const target = new URL(origin);
      target.pathname = path.map(encoded).join("/");
      target.search = new URLSearchParams(query).toString();
      const response = await connections.fetch(target, {
        method,
        headers: {
          authorization: `Bearer ${bearer.reveal()}`,
          accept: metadata === undefined ? "application/json" : `application/json;as=${metadata};g=meta.k8s.io;v=v1`,
          ...(body === undefined ? {} : { "content-type": "application/json" }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal,
      });
      return toAnswer(response);
    },
    [Symbol.asyncDispose]: () => connections[Symbol.asyncDispose](),
  };
}

function encoded(segment: string): string {
  if (segment === "" || segment === "." || segment === "..")
    throw new MayflyError("internal", "a path of Kubernetes' has an empty segment, or one that leads elsewhere");
  return encodeURIComponent(segment);
}

async function toAnswer(response: Response): Promise<KubernetesAnswer> {
  const body = await response.json().catch(() => undefined);
  if (response.ok && (typeof body !== "object" || body === null)) throw notKubernetes();
  const said = status.safeParse(body);
  const own = !response.ok && said.success && said.data.code === response.status ? said.data : undefined;
  return {
    ok: response.ok,
    status: response.status,
    body,
    reason: own?.reason,
    about: own?.details ?? {},
    refusal: (detail = "") => refusalOf(response, CALLED, detail),
  };
}

/** For an answer that an API server would not give: something stands between. */
export function notKubernetes(): MayflyError {
  return new MayflyError("target_unavailable", "what answered does not speak as a Kubernetes API server does");
}
