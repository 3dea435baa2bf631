import { generateKeyPairSync, type KeyObject, randomBytes, verify } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { localServer } from "../identity/local-server.ts";

/**
 * A stand-in for GitHub's REST API, from its public documentation: GitHub itself cannot run here. It enforces what GitHub
 * does: RS256 app tokens (exp at most ten minutes ahead, iat not in the future), suspended installations, permissions and
 * repositories as a part of the installation's, an hour of life by its own clock, tokens that are good for their repositories
 * and permissions alone, the take-back by whoever presents the token, limits, and its shapes of errors.
 */
export interface GithubFake extends AsyncDisposable {
  readonly apiUrl: string;
  readonly clientId: string;
  readonly appId: number;
  readonly installationId: number;
  readonly owner: string;
  /** The app's key, PKCS#1 as GitHub hands it out. */
  readonly privateKey: string;
  readonly pkcs8: string;
  /** Of the installation; tests change them. */
  readonly installation: {
    suspended: boolean;
    permissions: Record<string, string>;
    repositories: Map<string, number>;
  };
  /** What was asked, in order. */
  readonly asked: Asked[];
  /** Every token that was made, the newest last. */
  readonly tokens: Token[];
  /** Tokens that nobody has taken back. */
  live(): number;
  /** Milliseconds that its clock is ahead of this machine's. */
  skewMs: number;
  /** Questions with a new token that it answers as if it did not know it yet. */
  lag: number;
  /** The form of tokens: 40 characters, or the long one of 2026. */
  longTokens: boolean;
  /** Tokens that are refused because the hour's requests are used up, until then (GitHub's milliseconds). */
  limitedUntilMs: number;
  /** Answers instead, when it gives something. */
  instead: ((asked: Asked) => Reply | undefined) | undefined;
  /** Changes an answer on its way. */
  change: ((asked: Asked, reply: Reply) => Reply) | undefined;
}

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly bearer: string;
  readonly body: Record<string, unknown>;
  readonly agent: string | undefined;
}

export interface Reply {
  readonly status: number;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Token {
  readonly value: string;
  readonly repositories: ReadonlyMap<string, number>;
  readonly permissions: Readonly<Record<string, string>>;
  readonly endsMs: number;
  /** Questions that are still answered as if it were not there. */
  lag: number;
}

const LIFE_MS = 3_600_000;
const LEVELS = ["read", "write", "admin"];
const DOCS = "https://docs.github.com/rest";

export async function githubFake({ base = "" }: { readonly base?: string } = {}): Promise<GithubFake> {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const server = await localServer((request, response) => void serve(request, response));
  const live = new Map<string, Token>();
  const fake: GithubFake = {
    apiUrl: `${server.origin}${base}`,
    clientId: "Iv23liMayflyOfTheTests",
    appId: 424_242,
    installationId: 7_001,
    owner: "octo-org",
    privateKey: privateKey.export({ type: "pkcs1", format: "pem" }).toString(),
    pkcs8: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    installation: {
      suspended: false,
      permissions: { metadata: "read", contents: "write", issues: "write", checks: "read" },
      repositories: new Map([
        ["Hello-World", 1],
        ["docs", 2],
        ["tools", 3],
      ]),
    },
    asked: [],
    tokens: [],
    live: () => live.size,
    skewMs: 0,
    lag: 0,
    longTokens: false,
    limitedUntilMs: 0,
    instead: undefined,
    change: undefined,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
  const now = (): number => Date.now() + fake.skewMs;

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString();
    const asked: Asked = {
      method: request.method ?? "",
      path: request.url ?? "",
      bearer: /^(?:bearer|token) (\S+)$/i.exec(request.headers.authorization ?? "")?.[1] ?? "",
      body: text === "" ? {} : (JSON.parse(text) as Record<string, unknown>),
      agent: request.headers["user-agent"],
    };
    fake.asked.push(asked);
    const version = request.headers["x-github-api-version"];
    const reply =
      fake.instead?.(asked) ??
      (asked.agent === undefined || asked.agent === ""
        ? { status: 403, body: "Request forbidden by administrative rules." }
        : version !== undefined && version !== "2022-11-28"
          ? problem(400, "Unsupported API version")
          : route(asked));
    const { status, body, headers = {} } = fake.change?.(asked, reply) ?? reply;
    response.writeHead(status, {
      "content-type": "application/json; charset=utf-8",
      date: new Date(now()).toUTCString(),
      ...headers,
    });
    response.end(body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body));
  }

  function route(asked: Asked): Reply {
    if (!asked.path.startsWith(`${base}/`)) return problem(404, "Not Found");
    const { pathname, searchParams } = new URL(asked.path.slice(base.length), "http://github.test");
    const at = `${asked.method} ${pathname}`;
    if (at === "GET /app" || pathname.startsWith("/app/") || /^\/repos\/[^/]+\/[^/]+\/installation$/.test(pathname))
      return asApp(at, asked);
    return withToken(at, pathname, searchParams, asked);
  }

  function asApp(at: string, asked: Asked): Reply {
    const wrong = appTokenProblem(asked.bearer, publicKey, fake, now());
    if (wrong !== undefined) return wrong;
    const { installation } = fake;
    const id = fake.installationId;
    if (at === "GET /app")
      return { status: 200, body: { id: fake.appId, client_id: fake.clientId, slug: "mayfly", name: "Mayfly" } };
    if (at === `GET /app/installations/${id}`)
      return {
        status: 200,
        body: {
          id,
          account: { login: fake.owner, id: 9, type: "Organization" },
          repository_selection: "selected",
          permissions: installation.permissions,
          suspended_at: installation.suspended ? new Date(now()).toISOString() : null,
        },
      };
    if (at === `POST /app/installations/${id}/access_tokens`) return makeToken(asked.body);
    const [, owner, name] = /^GET \/repos\/([^/]+)\/([^/]+)\/installation$/.exec(at) ?? [];
    const known = [...installation.repositories.keys()].some((one) => one.toLowerCase() === name?.toLowerCase());
    return owner === fake.owner && known ? { status: 200, body: { id } } : problem(404, "Not Found");
  }

  function makeToken(body: Record<string, unknown>): Reply {
    const { installation } = fake;
    if (installation.suspended) return problem(403, "This installation has been suspended");
    const { repositories = [], repository_ids: ids = [] } = body as {
      repositories?: string[];
      repository_ids?: number[];
    };
    const permissions = (body.permissions ?? installation.permissions) as Record<string, string>;
    const all = [...installation.repositories];
    const chosen = [
      ...repositories.map((name) => all.find(([one]) => one.toLowerCase() === name.toLowerCase())),
      ...ids.map((id) => all.find(([, one]) => one === id)),
    ];
    if (chosen.length > 500 || chosen.includes(undefined))
      return problem(
        422,
        "There is at least one repository that does not exist or is not accessible to the parent installation.",
      );
    if (Object.entries(permissions).some(([name, level]) => !atLeast(installation.permissions[name], level)))
      return problem(422, "The permissions requested are not granted to this installation.");
    const endsMs = Math.floor((now() + LIFE_MS) / 1000) * 1000;
    const value = fake.longTokens
      ? `ghs_${fake.appId}_${randomBytes(300).toString("base64url")}.${randomBytes(200).toString("base64url")}`
      : `ghs_${randomBytes(27).toString("base64url").replaceAll(/[-_]/g, "0")}`;
    const some = chosen.length > 0;
    const reached = new Map(some ? (chosen as [string, number][]) : all);
    const token = {
      value,
      repositories: reached,
      permissions: { metadata: "read", ...permissions },
      endsMs,
      lag: fake.lag,
    };
    live.set(value, token);
    fake.tokens.push(token);
    return {
      status: 201,
      body: {
        token: value,
        expires_at: new Date(endsMs).toISOString().replace(".000Z", "Z"),
        permissions: token.permissions,
        repository_selection: some ? "selected" : "all",
        ...(some ? { repositories: [...reached].map(([name, id]) => described(fake, name, id)) } : {}),
      },
    };
  }

  function withToken(at: string, pathname: string, query: URLSearchParams, asked: Asked): Reply {
    const token = live.get(asked.bearer);
    if (token === undefined || token.endsMs <= now()) return problem(401, "Bad credentials");
    if (token.lag > 0) {
      token.lag -= 1;
      return problem(401, "Bad credentials");
    }
    if (fake.installation.suspended) return problem(403, "This installation has been suspended");
    if (now() < fake.limitedUntilMs)
      return {
        ...problem(403, "API rate limit exceeded for installation ID 7001."),
        headers: { "x-ratelimit-remaining": "0", "x-ratelimit-reset": String(Math.ceil(fake.limitedUntilMs / 1000)) },
      };
    if (at === "DELETE /installation/token") {
      live.delete(asked.bearer);
      return { status: 204 };
    }
    const named = [...token.repositories].map(([name, id]) => described(fake, name, id));
    if (at === "GET /installation/repositories")
      return {
        status: 200,
        body: { total_count: named.length, repositories: named.slice(0, Number(query.get("per_page") ?? 30)) },
      };
    return atRepository(fake, token, asked.method, pathname);
  }

  return fake;
}

function atRepository(fake: GithubFake, token: Token, method: string, pathname: string): Reply {
  const [, owner, name = "", rest = ""] = /^\/repos\/([^/]+)\/([^/]+)(\/.*)?$/.exec(pathname) ?? [];
  const reached = [...token.repositories].find(([one]) => one.toLowerCase() === name.toLowerCase());
  // A private repository that one may not see does not exist.
  if (owner !== fake.owner || reached === undefined) return problem(404, "Not Found");
  if (rest === "") return { status: 200, body: described(fake, ...reached) };
  const [permission, body] = rest.startsWith("/contents/")
    ? (["contents", { path: rest.slice(10), encoding: "base64", content: "aGVsbG8=" }] as const)
    : (["issues", []] as const);
  if (!atLeast(token.permissions[permission], method === "GET" ? "read" : "write"))
    return problem(403, "Resource not accessible by integration");
  return { status: method === "GET" ? 200 : 201, body };
}

/** Undefined: the app's token is good. */
function appTokenProblem(jwt: string, key: KeyObject, fake: GithubFake, nowMs: number): Reply | undefined {
  const [header = "", payload = "", signature = ""] = jwt.split(".");
  const undecodable = problem(401, "A JSON web token could not be decoded");
  let claims: Record<string, unknown>;
  try {
    if ((JSON.parse(Buffer.from(header, "base64url").toString()) as { alg: string }).alg !== "RS256")
      return undecodable;
    claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as Record<string, unknown>;
  } catch {
    return undecodable;
  }
  const { iss, iat, exp } = claims;
  if (iss !== fake.clientId && iss !== fake.appId && iss !== String(fake.appId))
    return problem(404, "Integration not found");
  if (!verify("sha256", Buffer.from(`${header}.${payload}`), key, Buffer.from(signature, "base64url")))
    return undecodable;
  const seconds = nowMs / 1000;
  const [expiration, issued] = ["'Expiration time' claim ('exp')", "'Issued at' claim ('iat')"];
  if (!Number.isInteger(exp) || Number(exp) <= seconds)
    return problem(
      401,
      `${expiration} must be a numeric value representing the future time at which the assertion expires`,
    );
  if (Number(exp) > seconds + 600) return problem(401, `${expiration} is too far in the future`);
  if (!Number.isInteger(iat) || Number(iat) > seconds)
    return problem(401, `${issued} must be an Integer representing the time that the assertion was issued`);
  return undefined;
}

function atLeast(has: string | undefined, asked: string): boolean {
  return has !== undefined && LEVELS.indexOf(has) >= LEVELS.indexOf(asked);
}

/** As large as GitHub's: some forty URLs. */
function described(fake: GithubFake, name: string, id: number): object {
  const url = `https://api.github.com/repos/${fake.owner}/${name}`;
  const urls = Object.fromEntries(
    Array.from({ length: 42 }, (_, i) => [`kind_of_thing_${i}_url`, `${url}/things/${i}{/number}`]),
  );
  return { id, name, full_name: `${fake.owner}/${name}`, private: true, ...urls, description: "d".repeat(350) };
}

export function problem(status: number, message: string): Reply {
  return { status, body: { message, documentation_url: DOCS, status: String(status) } };
}
