import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type Engines, engines } from "./vault-fake-engines.ts";

/** Lines of a policy: path (a `*` at its end is a prefix), capabilities. */
export type Policy = readonly (readonly [path: string, capabilities: readonly string[]])[];

export interface FakeToken {
  readonly accessor: string;
  readonly policies: readonly string[];
  readonly orphan: boolean;
  readonly parent: string | undefined;
  readonly meta: Readonly<Record<string, string>>;
  readonly renewable: boolean;
  readonly explicitMaxAt: number;
  readonly ttl: number;
  expiresAt: number;
  /** It is refused, and its leases are queued; its entry is still there. */
  ending: boolean;
}

export interface FakeLease {
  readonly token: string;
  readonly path: string;
  readonly expiresAt: number;
  /** Requests until the queue has worked it off. Undefined: not in the queue. */
  turns: number | undefined;
  revoke(): void;
}

export interface TokenRole {
  readonly orphan: boolean;
  readonly allowed_policies: readonly string[];
  readonly allowed_policies_glob?: readonly string[];
  readonly token_type: string;
  readonly token_num_uses?: number;
  readonly token_period?: number;
  readonly token_explicit_max_ttl?: number;
}

interface Seen {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly data: Record<string, unknown>;
}

/** A Vault that keeps the promises of its documentation, in memory and with a clock of its own. */
export interface FakeVault extends AsyncDisposable {
  readonly url: string;
  readonly namespace: string;
  readonly policies: Map<string, Policy>;
  readonly roles: Map<string, TokenRole>;
  readonly tokens: Map<string, FakeToken>;
  readonly leases: Map<string, FakeLease>;
  readonly engines: Engines;
  /** What was asked, newest last. */
  readonly requests: Seen[];
  /** Answers in Vault's place when it returns true. Called before anything has an effect. */
  intercept: ((seen: Seen, response: ServerResponse) => Promise<boolean> | boolean) | undefined;
  /** Requests that the queue needs for a lease. */
  queueTurns: number;
  /** The engines refuse to take back: leases become irrevocable. */
  enginesFail: boolean;
  sealed: boolean;
  secretId: string;
  jwt: string;
  loginTtl: number;
  advance(seconds: number): void;
}

const SUDO = /^(auth\/token\/accessors|sys\/leases\/lookup\/)/;
const DEFAULT: Policy = [
  ["auth/token/lookup-self", ["read"]],
  ["auth/token/renew-self", ["update"]],
  ["auth/token/revoke-self", ["update"]],
  ["sys/capabilities-self", ["update"]],
];

export async function fakeVault(): Promise<FakeVault> {
  let skew = 0;
  const now = (): number => Date.now() + skew;
  const fake: FakeVault = {
    url: "",
    namespace: "team-a",
    policies: new Map([["default", DEFAULT]]),
    roles: new Map(),
    tokens: new Map(),
    leases: new Map(),
    engines: engines(now),
    requests: [],
    intercept: undefined,
    queueTurns: 4,
    enginesFail: false,
    sealed: false,
    secretId: randomBytes(16).toString("hex"),
    jwt: `e30.${randomBytes(16).toString("hex")}.e30`,
    loginTtl: 1200,
    advance: (seconds) => {
      skew += seconds * 1000;
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

type Answer = readonly [status: number, body: unknown];
const ok = (body: unknown): Answer => [200, { request_id: "r", ...(body as object) }];
/** As Vault writes an error that came with a status of its own. */
const oneError = (text: string): string => `1 error occurred:\n\t* ${text}\n\n`;
const bad = (status: number, ...errors: string[]): Answer => [status, { errors }];

async function serve(
  fake: FakeVault,
  now: () => number,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString();
  // Raw: `%2e%2e` and the like must not have become something else on the way.
  const path = (request.url ?? "").replace(/^\/v1\//, "");
  const data = text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
  const seen: Seen = { method: request.method ?? "", path, headers: request.headers, data };
  fake.requests.push(seen);
  if ((await fake.intercept?.(seen, response)) === true) return;
  turn(fake, now);
  const [status, body] = answer(fake, now, seen);
  response.writeHead(status, { "content-type": "application/json" });
  response.end(body === undefined ? undefined : JSON.stringify(body));
}

function answer(fake: FakeVault, now: () => number, seen: Seen): Answer {
  const { path, method, data, headers } = seen;
  if (fake.sealed) return bad(503, "Vault is sealed");
  if (headers["x-vault-namespace"] !== fake.namespace) return bad(403, oneError("permission denied"));
  const login = /^auth\/(approle|kubernetes|jwt)\/login$/.exec(path);
  if (login !== null && method === "POST") return logIn(fake, now, login[1] ?? "", data);
  const id = String(headers["x-vault-token"] ?? "");
  const token = fake.tokens.get(id);
  if (token === undefined || token.ending) return bad(403, "permission denied", "invalid token");
  const capability = { GET: "read", LIST: "list", POST: "update", PUT: "update" }[method] ?? "none";
  const held = capabilities(fake, token, path);
  if (!held.includes("root") && (!held.includes(capability) || (SUDO.test(path) && !held.includes("sudo"))))
    return bad(403, oneError("permission denied"));
  return api(fake, now, id, token, seen);
}

function api(fake: FakeVault, now: () => number, id: string, token: FakeToken, { path, data }: Seen): Answer {
  const create = /^auth\/token\/create\/([^/]+)$/.exec(path);
  if (create !== null) return createAgainstRole(fake, now, create[1] ?? "", id, data);
  const role = /^auth\/token\/roles\/([^/]+)$/.exec(path);
  if (role !== null) {
    const found = fake.roles.get(role[1] ?? "");
    return found === undefined ? bad(404) : ok({ data: found });
  }
  switch (path) {
    case "auth/token/lookup-self":
      return ok({ data: { accessor: token.accessor, ttl: Math.ceil((token.expiresAt - now()) / 1000) } });
    case "auth/token/renew-self": {
      token.expiresAt = Math.min(now() + token.ttl * 1000, token.explicitMaxAt);
      const lease_duration = Math.floor((token.expiresAt - now()) / 1000);
      return ok({ auth: { client_token: id, lease_duration, renewable: token.renewable } });
    }
    case "auth/token/lookup-accessor": {
      const found = byAccessor(fake, data["accessor"]);
      if (found === undefined) return bad(400, oneError("invalid accessor"));
      if (found[1].ending) return bad(403, oneError("bad token"));
      return ok({ data: { accessor: found[1].accessor, meta: found[1].meta, id: "" } });
    }
    case "auth/token/revoke-accessor": {
      const found = byAccessor(fake, data["accessor"]);
      if (found === undefined) return ok({ warnings: ["No token found with this accessor"] });
      if (found[1].ending) return bad(400, "token not found");
      endToken(fake, found[0]);
      return [204, undefined];
    }
    case "sys/leases/lookup": {
      const lease = fake.leases.get(String(data["lease_id"]));
      if (lease === undefined) return bad(400, "invalid lease");
      return ok({ data: { id: data["lease_id"], ttl: Math.max(0, Math.ceil((lease.expiresAt - now()) / 1000)) } });
    }
    case "sys/leases/revoke": {
      const lease = fake.leases.get(String(data["lease_id"]));
      if (lease !== undefined && data["sync"] !== true) lease.turns = fake.queueTurns;
      if (data["sync"] !== true) return [202, undefined];
      if (lease !== undefined && fake.enginesFail) return bad(400, oneError("failed to revoke entry"));
      lease?.revoke();
      fake.leases.delete(String(data["lease_id"]));
      return [204, undefined];
    }
    case "sys/capabilities-self": {
      const paths = data["paths"] as string[];
      return ok({ data: Object.fromEntries(paths.map((one) => [one, capabilities(fake, token, one)])) });
    }
    default: {
      const made = fake.engines.generate(path, data);
      if (typeof made === "string") return bad(400, made);
      if (made === undefined) return bad(404, `no handler for route "${path}"`);
      const { ttl, data: generated, revoke } = made;
      if (revoke === undefined) return ok({ lease_id: "", lease_duration: 0, renewable: false, data: generated });
      const lease_id = `${path}/${randomBytes(12).toString("hex")}.${fake.namespace.replace("-", "")}`;
      fake.leases.set(lease_id, { token: id, path, expiresAt: now() + ttl * 1000, turns: undefined, revoke });
      return ok({ lease_id, lease_duration: ttl, renewable: true, data: generated });
    }
  }
}

function logIn(fake: FakeVault, now: () => number, method: string, data: Record<string, unknown>): Answer {
  const right =
    method === "approle"
      ? data["role_id"] === "mayfly-role-id" && data["secret_id"] === fake.secretId
      : data["role"] === "mayfly" && data["jwt"] === fake.jwt;
  if (!right && method === "kubernetes") return bad(403, "permission denied");
  if (!right) return bad(400, method === "approle" ? "invalid role or secret ID" : "error validating token");
  const made = newToken(fake, now, { policies: ["default", "mayfly"], ttl: fake.loginTtl, maxTtl: 3 * fake.loginTtl });
  return ok({ auth: { ...made, renewable: true } });
}

function newToken(
  fake: FakeVault,
  now: () => number,
  made: {
    policies: readonly string[];
    ttl: number;
    maxTtl: number;
    parent?: string;
    meta?: Readonly<Record<string, string>>;
    renewable?: boolean;
  },
): Record<string, unknown> {
  const { policies, parent, meta = {}, renewable = true } = made;
  const [client_token, accessor] = [`hvs.${randomBytes(24).toString("base64url")}`, randomBytes(12).toString("hex")];
  const ttl = Math.min(made.ttl, made.maxTtl);
  const madeAt = now();
  fake.tokens.set(client_token, {
    accessor: `${accessor}.ns1`,
    policies,
    orphan: parent === undefined,
    parent,
    meta,
    renewable,
    ttl,
    explicitMaxAt: madeAt + made.maxTtl * 1000,
    expiresAt: madeAt + ttl * 1000,
    ending: false,
  });
  return { client_token, accessor: `${accessor}.ns1`, lease_duration: ttl, renewable };
}

function createAgainstRole(
  fake: FakeVault,
  now: () => number,
  name: string,
  parent: string,
  data: Record<string, unknown>,
): Answer {
  const role = fake.roles.get(name);
  if (role === undefined) return bad(400, `unknown role ${name}`);
  const policies = [...((data["policies"] as string[] | undefined) ?? role.allowed_policies)];
  if (data["no_default_policy"] !== true && !policies.includes("default")) policies.push("default");
  if (policies.some((policy) => policy !== "default" && !role.allowed_policies.includes(policy)))
    return bad(400, "token policies must be subset of the role's allowed policies");
  const seconds = (value: unknown): number => (typeof value === "string" ? Number.parseInt(value, 10) : 0);
  const maxTtl = Math.min(
    ...[seconds(data["explicit_max_ttl"]), role.token_explicit_max_ttl ?? 0, 2_764_800].filter((one) => one > 0),
  );
  const made = newToken(fake, now, {
    policies,
    ttl: seconds(data["ttl"]) || maxTtl,
    maxTtl,
    meta: data["meta"] as Readonly<Record<string, string>>,
    renewable: data["renewable"] !== false,
    ...(role.orphan ? {} : { parent }),
  });
  return ok({
    auth: {
      ...made,
      orphan: role.orphan,
      token_type: role.token_type === "batch" ? "batch" : "service",
      token_policies: policies,
      policies,
    },
  });
}

function capabilities(fake: FakeVault, token: FakeToken, path: string): string[] {
  if (token.policies.includes("root")) return ["root"];
  const lines = token.policies.flatMap((name) => fake.policies.get(name) ?? []);
  const held = lines.flatMap(([pattern, granted]) =>
    pattern === path || (pattern.endsWith("*") && path.startsWith(pattern.slice(0, -1))) ? granted : [],
  );
  return held.length === 0 || held.includes("deny") ? ["deny"] : [...new Set(held)];
}

function byAccessor(fake: FakeVault, accessor: unknown): [string, FakeToken] | undefined {
  return [...fake.tokens].find(([, token]) => token.accessor === accessor);
}

/** The token is refused from now on; its leases go into the queue, its children follow. */
function endToken(fake: FakeVault, id: string): void {
  const token = fake.tokens.get(id);
  if (token === undefined) return;
  token.ending = true;
  for (const lease of fake.leases.values()) if (lease.token === id) lease.turns ??= fake.queueTurns;
  for (const [child, { parent }] of fake.tokens) if (parent === id) endToken(fake, child);
}

/** What Vault does by itself, one step with every request: ends what has run out, works off its queue. */
function turn(fake: FakeVault, now: () => number): void {
  for (const [id, token] of fake.tokens) {
    if (token.ending) fake.tokens.delete(id);
    else if (token.expiresAt <= now()) endToken(fake, id);
  }
  for (const [id, lease] of fake.leases) {
    if (lease.expiresAt <= now()) lease.turns ??= fake.queueTurns;
    if (lease.turns === undefined || fake.enginesFail) continue;
    lease.turns -= 1;
    if (lease.turns > 0) continue;
    lease.revoke();
    fake.leases.delete(id);
  }
}
