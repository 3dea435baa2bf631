import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What a Role of the namespace grants. */
export interface Rule {
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
  readonly resourceNames?: readonly string[];
}

export interface FakeSecret {
  readonly apiVersion: "v1";
  readonly kind: "Secret";
  readonly type: string;
  readonly data?: Readonly<Record<string, string>>;
  readonly metadata: {
    readonly name: string;
    readonly namespace: string;
    readonly uid: string;
    readonly resourceVersion: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly annotations: Readonly<Record<string, string>>;
    finalizers?: string[];
    deletionTimestamp?: string;
  };
}

interface FakeToken {
  readonly user: string;
  readonly audiences: readonly string[];
  readonly expiresAt: number;
  readonly secret: { readonly name: string; readonly uid: string };
}

interface Seen {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingMessage["headers"];
  readonly body: Record<string, unknown>;
}

/** An API server that keeps the promises of its reference for what is used here, with one namespace and a clock of its own. */
export interface FakeKubernetes extends AsyncDisposable {
  readonly url: string;
  readonly namespace: string;
  readonly adminToken: string;
  rules: readonly Rule[];
  readonly serviceAccounts: Set<string>;
  readonly secrets: Map<string, FakeSecret>;
  readonly tokens: Map<string, FakeToken>;
  readonly requests: Seen[];
  /** Answers in its place when it returns true. Called before anything has an effect. */
  intercept: ((seen: Seen, response: ServerResponse) => Promise<boolean> | boolean) | undefined;
  /** `--service-account-max-token-expiration`, in seconds. */
  maxExpiration: number;
  /** Seconds by which it gives more than it was asked for. */
  extendBy: number;
  /** How long it remembers that it accepted a token. The real one: 10 s. */
  remembersSeconds: number;
  /** Whether the rights of system:basic-user are bound. */
  basicUser: boolean;
  advance(seconds: number): void;
  /** Whether the API server authenticates this token now (TokenReview). */
  authenticates(token: string, audience?: string): boolean;
}

type Answer = readonly [status: number, body: object, headers?: Readonly<Record<string, string>>];
const API = "https://kubernetes.default.svc";
const LEEWAY_MS = 60_000;

const failed = (code: number, reason: string, kind: string, name?: string): Answer => [
  code,
  {
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Failure",
    code,
    reason,
    message: `${kind} "${name ?? ""}": ${reason}`,
    details: { kind, ...(name === undefined ? {} : { name }) },
  },
];

export async function fakeKubernetes(): Promise<FakeKubernetes> {
  let skew = 0;
  const now = (): number => Date.now() + skew;
  const accepted = new Map<string, number>();
  const fake: FakeKubernetes = {
    url: "",
    namespace: "agents",
    adminToken: `e30.${randomBytes(24).toString("base64url")}.e30`,
    rules: [],
    serviceAccounts: new Set(["reporting", "deploying", "powerful"]),
    secrets: new Map(),
    tokens: new Map(),
    requests: [],
    intercept: undefined,
    maxExpiration: Number.POSITIVE_INFINITY,
    extendBy: 0,
    remembersSeconds: 0,
    basicUser: true,
    advance: (seconds) => {
      skew += seconds * 1000;
    },
    authenticates(id, audience = API) {
      const token = fake.tokens.get(id);
      if (token === undefined || !token.audiences.includes(audience)) return false;
      if (now() < (accepted.get(id) ?? 0) + fake.remembersSeconds * 1000) return true;
      if (now() >= token.expiresAt + LEEWAY_MS) return false;
      const bound = fake.secrets.get(token.secret.name);
      const deletedAt = Date.parse(bound?.metadata.deletionTimestamp ?? "") || Number.POSITIVE_INFINITY;
      if (bound?.metadata.uid !== token.secret.uid || now() > deletedAt + LEEWAY_MS) return false;
      accepted.set(id, now());
      return true;
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
    },
  };
  const server = createServer((request, response) => void serve(fake, now, request, response));
  await once(server.listen(0, "127.0.0.1"), "listening");
  return Object.assign(fake, { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
}

async function serve(
  fake: FakeKubernetes,
  now: () => number,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString();
  const [path = "", search = ""] = (request.url ?? "").split("?");
  const body = text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
  const query = new URLSearchParams(search);
  const seen: Seen = { method: request.method ?? "", path, query, headers: request.headers, body };
  fake.requests.push(seen);
  if ((await fake.intercept?.(seen, response)) === true) return;
  const [status, answer, headers = {}] = api(fake, now, seen);
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify(asMetadata(answer, seen)));
}

function api(fake: FakeKubernetes, now: () => number, seen: Seen): Answer {
  const { path, method, headers, body } = seen;
  if (headers.authorization !== `Bearer ${fake.adminToken}`) return failed(401, "Unauthorized", "");
  if (path === "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" && method === "POST") {
    if (!fake.basicUser) return failed(403, "Forbidden", "selfsubjectaccessreviews");
    const { resourceAttributes: asked } = body["spec"] as { resourceAttributes: Record<string, string | undefined> };
    const resource = [asked["resource"], asked["subresource"]].filter((one) => one !== undefined).join("/");
    const allowed = asked["namespace"] === fake.namespace && may(fake, asked["verb"] ?? "", resource, asked["name"]);
    return [201, { ...body, status: { allowed } }];
  }
  const match = /^\/api\/v1\/namespaces\/([^/]+)\/(secrets|serviceaccounts)(?:\/([^/]+)(\/token)?)?$/.exec(path);
  const [, namespace = "", kind = "", name, sub = ""] = match ?? [];
  if (match === null) return failed(404, "NotFound", "");
  const verb = { POST: "create", DELETE: "delete", GET: name === undefined ? "list" : "get" }[method] ?? "none";
  if (namespace !== fake.namespace || !may(fake, verb, kind + sub, name)) return failed(403, "Forbidden", kind, name);
  if (kind === "serviceaccounts") return requestToken(fake, now, name ?? "", body);
  if (verb === "create") return createSecret(fake, body as unknown as FakeSecret);
  if (verb === "list") return list(fake, seen);
  const found = fake.secrets.get(name ?? "");
  if (found === undefined) return failed(404, "NotFound", "secrets", name);
  if (verb === "get") return [200, found];
  const { preconditions } = body as { preconditions?: { uid?: string } };
  if (preconditions?.uid !== undefined && preconditions.uid !== found.metadata.uid)
    return failed(409, "Conflict", "secrets", name);
  if ((found.metadata.finalizers ?? []).length > 0) {
    found.metadata.deletionTimestamp ??= new Date(now()).toISOString();
    return [200, found];
  }
  fake.secrets.delete(found.metadata.name);
  return [200, { kind: "Status", apiVersion: "v1", status: "Success", details: { name, kind: "secrets" } }];
}

/** A name that is not given, as when something is created or listed, is covered by rules without names alone. */
function may(fake: FakeKubernetes, verb: string, resource: string, name: string | undefined): boolean {
  return fake.rules.some(
    ({ resources, verbs, resourceNames }) =>
      resources.includes(resource) &&
      verbs.includes(verb) &&
      (resourceNames === undefined || (name !== undefined && resourceNames.includes(name))),
  );
}

function createSecret(fake: FakeKubernetes, given: FakeSecret): Answer {
  const { name, labels, annotations } = given.metadata;
  if (!/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/.test(name)) return failed(422, "Invalid", "secrets", name);
  if (Object.values(labels).some((value) => !/^([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?$/.test(value)))
    return failed(422, "Invalid", "secrets", name);
  if (fake.secrets.has(name)) return failed(409, "AlreadyExists", "secrets", name);
  const own = { name, namespace: fake.namespace, uid: randomUUID(), resourceVersion: `${fake.requests.length}` };
  const made: FakeSecret = { ...given, metadata: { ...own, labels, annotations } };
  fake.secrets.set(name, made);
  return [201, made];
}

function requestToken(fake: FakeKubernetes, now: () => number, account: string, body: Record<string, unknown>): Answer {
  if (!fake.serviceAccounts.has(account)) return failed(404, "NotFound", "serviceaccounts", account);
  const {
    expirationSeconds = 3600,
    boundObjectRef: bound,
    audiences = [API],
  } = body["spec"] as {
    expirationSeconds?: number;
    boundObjectRef?: { kind: string; apiVersion: string; name: string; uid: string };
    audiences?: readonly string[];
  };
  if (!Number.isInteger(expirationSeconds) || expirationSeconds < 600 || expirationSeconds > 2 ** 32)
    return failed(422, "Invalid", "tokenrequests", account);
  if (bound === undefined || bound.kind !== "Secret" || bound.apiVersion !== "v1")
    return failed(400, "BadRequest", "tokenrequests", account);
  const secret = fake.secrets.get(bound.name);
  if (secret === undefined) return failed(404, "NotFound", "secrets", bound.name);
  if (secret.metadata.uid !== bound.uid) return failed(409, "Conflict", "secrets", bound.name);
  const lives = Math.min(expirationSeconds, fake.maxExpiration) + fake.extendBy;
  const expiresAt = Math.floor(now() / 1000) * 1000 + lives * 1000;
  const token = `e30.${randomBytes(32).toString("base64url")}.e30`;
  fake.tokens.set(token, { user: account, audiences, expiresAt, secret: { name: bound.name, uid: bound.uid } });
  const expirationTimestamp = new Date(expiresAt).toISOString().replace(".000", "");
  return [201, { ...body, status: { token, expirationTimestamp } }];
}

function list(fake: FakeKubernetes, { query }: Seen): Answer {
  const [label = "", wanted] = (query.get("labelSelector") ?? "").split("=");
  const all = [...fake.secrets.values()]
    .filter(({ metadata }) => label === "" || metadata.labels[label] === wanted)
    .toSorted((one, two) => (one.metadata.name < two.metadata.name ? -1 : 1));
  const after = query.get("continue") ?? "";
  const rest = all.filter(({ metadata }) => metadata.name > after);
  const items = rest.slice(0, Number(query.get("limit") ?? rest.length));
  const more = items.length < rest.length ? { continue: items.at(-1)?.metadata.name } : {};
  return [200, { kind: "SecretList", apiVersion: "v1", metadata: { resourceVersion: "1", ...more }, items }];
}

/** Metadata alone, when that is what the client accepts. */
function asMetadata(answer: object, { headers }: Seen): object {
  if (!String(headers.accept).includes("as=PartialObjectMetadata") || !("kind" in answer)) return answer;
  const one = ({ metadata }: FakeSecret): object => ({
    kind: "PartialObjectMetadata",
    apiVersion: "meta.k8s.io/v1",
    metadata,
  });
  if (answer.kind === "Secret") return one(answer as FakeSecret);
  if (answer.kind !== "SecretList") return answer;
  const { items, metadata } = answer as unknown as { items: FakeSecret[]; metadata: object };
  return { kind: "PartialObjectMetadataList", apiVersion: "meta.k8s.io/v1", metadata, items: items.map(one) };
}
