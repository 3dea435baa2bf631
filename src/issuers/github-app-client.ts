import { createPrivateKey, type KeyObject } from "node:crypto";
import { SignJWT } from "jose";
import { MayflyError } from "../lib/errors.ts";
import { isRecord } from "./github-app-scope.ts";
import { openTargetConnections, refusalOf, type TargetConnections, type TargetRequest } from "./target-fetch.ts";

/** What is needed to speak as an app. */
export interface GithubApp {
  readonly api_url: string;
  readonly client_id: string;
  readonly private_key: string;
  readonly ca?: string | undefined;
}

/** One question to GitHub. `path` begins with a slash and is encoded already. */
export interface GithubRequest {
  readonly method: NonNullable<TargetRequest["method"]>;
  readonly path: string;
  readonly body?: object;
  readonly signal: AbortSignal;
}

/** What GitHub answered, whatever the status. `body` is empty when it was no JSON object. */
export interface GithubAnswer {
  readonly response: Response;
  readonly body: Readonly<Record<string, unknown>>;
}

/** Connections to GitHub for one sort of work. */
export interface GithubLane extends AsyncDisposable {
  /** Asks as the app itself. `untilMs`: when GitHub is to take the question no more, by this machine's clock. */
  asApp(request: GithubRequest, untilMs?: number): Promise<GithubAnswer>;
  /** Asks as whoever holds an installation access token. */
  asToken(request: GithubRequest, token: string): Promise<GithubAnswer>;
}

/** What errors call the far side. */
export const GITHUB = "GitHub";

/** The answer to a token for 500 repositories describes each of them, with some 40 URLs. */
const MAX_BYTES = 8 * 1024 * 1024;
const QUESTION_MS = 60_000;
/** GitHub's advice against clocks that differ. */
const BACKDATED_SECONDS = 60;
const NO_HINT_SECONDS = 60;
const LONGEST_WAIT_SECONDS = 3600;

/** Opens connections to the API of one app. Nothing is sent yet. Throws for a key that is none: the schema lets none through. */
export function openLane(app: GithubApp): GithubLane {
  const key = createPrivateKey(app.private_key);
  const { origin, pathname } = new URL(app.api_url);
  const base = `${origin}${pathname.replace(/\/$/, "")}`;
  const far = openTargetConnections({ origin, ca: app.ca, called: GITHUB, maxBytes: MAX_BYTES });
  return {
    async asApp(request, untilMs = Date.now() + QUESTION_MS) {
      return ask(far, base, request, await appToken(app.client_id, key, untilMs));
    },
    asToken: (request, token) => ask(far, base, request, token),
    [Symbol.asyncDispose]: () => far[Symbol.asyncDispose](),
  };
}

/** RS256, as GitHub wants it: issued a minute ago, for ten minutes at most (here: far less), in whole seconds. */
function appToken(clientId: string, key: KeyObject, untilMs: number): Promise<string> {
  return new SignJWT()
    .setProtectedHeader({ alg: "RS256", typ: "JWT" })
    .setIssuer(clientId)
    .setIssuedAt(Math.floor(Date.now() / 1000) - BACKDATED_SECONDS)
    .setExpirationTime(Math.ceil(untilMs / 1000))
    .sign(key);
}

async function ask(
  far: TargetConnections,
  base: string,
  { method, path, body, signal }: GithubRequest,
  token: string,
): Promise<GithubAnswer> {
  const response = await far.fetch(`${base}${path}`, {
    method,
    signal,
    headers: {
      accept: "application/vnd.github+json",
      authorization: `Bearer ${token}`,
      "x-github-api-version": "2022-11-28",
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { response, body: await readJson(response) };
}

async function readJson(response: Response): Promise<Readonly<Record<string, unknown>>> {
  try {
    const body: unknown = await response.json();
    return isRecord(body) ? body : {};
  } catch {
    return {};
  }
}

/** GitHub's own way to say that it knows no such token (any more). A 401 of something in between is not it. */
export function isBadCredentials({ response, body }: GithubAnswer): boolean {
  return response.status === 401 && body.message === "Bad credentials";
}

/** GitHub's answer as an error, with nothing of it but its status. A used-up limit says when to come back. */
export function githubRefusal(answer: GithubAnswer, detail?: string): MayflyError {
  const seconds = limitedFor(answer);
  if (seconds === undefined) return refusalOf(answer.response, GITHUB, detail);
  return new MayflyError("target_unavailable", `${GITHUB} has had enough requests for now`, {
    retryAfterSeconds: Math.min(Math.max(seconds, 1), LONGEST_WAIT_SECONDS),
  });
}

/** The primary limit names the moment at which it starts anew, by GitHub's clock; a secondary one names seconds, or nothing. */
function limitedFor({ response: { status, headers }, body }: GithubAnswer): number | undefined {
  if (status !== 403 && status !== 429) return undefined;
  const after = Number(headers.get("retry-after") ?? Number.NaN);
  if (Number.isInteger(after)) return after;
  const reset = Number(headers.get("x-ratelimit-reset") ?? Number.NaN);
  if (headers.get("x-ratelimit-remaining") === "0" && Number.isInteger(reset))
    return reset - Math.floor((clockOf(headers) ?? Date.now()) / 1000);
  return status === 429 || /rate limit/i.test(String(body.message)) ? NO_HINT_SECONDS : undefined;
}

/** GitHub's time, in milliseconds, as an answer tells it. Undefined when it does not. */
export function clockOf(headers: Headers): number | undefined {
  const ms = Date.parse(headers.get("date") ?? "");
  return Number.isNaN(ms) ? undefined : ms;
}
