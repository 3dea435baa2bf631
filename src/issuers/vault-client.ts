import nodeVault from "node-vault";
import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { Secret } from "../lib/secret.ts";
import { openTargetConnections, refusalOf, type TargetConnections } from "./target-fetch.ts";
import { readMountedToken } from "./target-origin.ts";

/** One call of Vault's API. `path` is below `/v1/`, its segments as they are; they are encoded here. */
export interface VaultCall {
  readonly method: "read" | "write";
  readonly path: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

/** What came back, whatever its status. `errors` are Vault's own texts: to be compared, never to be passed on. */
export interface VaultAnswer {
  readonly ok: boolean;
  readonly status: number;
  readonly body: unknown;
  readonly errors: readonly string[];
  /** What the answer means when it is not the wanted one. `detail` must hold nothing that Vault sent. */
  refusal(detail?: string): MayflyError;
}

/** Vault for one sort of work: its own connections and its own log-in. */
export interface VaultLane extends AsyncDisposable {
  /** As the broker: logged in, the token renewed before its end; a 403 is tried once more with a new log-in. */
  call(call: VaultCall, signal: AbortSignal): Promise<VaultAnswer>;
  /** As the holder of another token. */
  callAs(token: Secret, call: VaultCall, signal: AbortSignal): Promise<VaultAnswer>;
}

/** What is needed to reach Vault and log in. */
export interface VaultAddress {
  readonly url: string;
  readonly namespace?: string | undefined;
  readonly ca?: string | undefined;
  readonly login: { readonly method: "approle" | "kubernetes" | "jwt"; readonly mount: string; readonly role: string };
  /** The `secret_id`, or the JWT. Absent: the mounted token. */
  readonly login_secret?: string | undefined;
}

interface OwnToken {
  readonly token: Secret;
  readonly renewable: boolean;
  /** On the process's clock, in milliseconds. */
  readonly renewAt: number;
  readonly endsAt: number;
}

const CALLED = "Vault";
const loggedIn = z.object({
  auth: z.object({ client_token: z.string().min(1), lease_duration: z.number().min(0), renewable: z.boolean() }),
});

/** Opens a lane. Nothing is sent before the first call. */
export function openVault(address: VaultAddress): VaultLane {
  const { url: origin, ca, login, namespace } = address;
  const connections = openTargetConnections({ origin, ca, called: CALLED });
  const send = (token: Secret | undefined, call: VaultCall, signal?: AbortSignal): Promise<VaultAnswer> =>
    ask(connections, { origin, namespace, token, call, signal });

  async function logIn(): Promise<OwnToken> {
    const secret = address.login_secret ?? (await readMountedToken(origin)).reveal();
    const data =
      login.method === "approle" ? { role_id: login.role, secret_id: secret } : { role: login.role, jwt: secret };
    const startedAt = performance.now();
    const answer = await send(undefined, { method: "write", path: `auth/${login.mount}/login`, data });
    if (!answer.ok) throw answer.refusal(`the log-in at auth/${login.mount} was not accepted`);
    return toOwnToken(answer.body, startedAt);
  }

  async function renew(held: OwnToken): Promise<OwnToken> {
    const startedAt = performance.now();
    if (!held.renewable || startedAt >= held.endsAt) return logIn();
    const answer = await send(held.token, { method: "write", path: "auth/token/renew-self", data: {} });
    // A token near its last end is renewed to less and less: then a new one is had in time.
    const renewed = answer.ok ? toOwnToken(answer.body, startedAt) : undefined;
    return renewed === undefined || renewed.endsAt - startedAt < (held.endsAt - held.renewAt) * 1.5 ? logIn() : renewed;
  }

  let making: Promise<OwnToken> | undefined;
  function make(next: Promise<OwnToken>): Promise<OwnToken> {
    making = next;
    next.catch(() => {
      if (making === next) making = undefined;
    });
    return next;
  }
  /** Another token than the one that was refused. Calls that ask at the same time share one log-in. */
  async function own(refused?: OwnToken): Promise<OwnToken> {
    const current = making ?? make(logIn());
    const held = await current;
    if (held !== refused && performance.now() < held.renewAt) return held;
    if (making !== current) return own(refused);
    return make(held === refused ? logIn() : renew(held));
  }

  return {
    async call(call, signal) {
      const held = await orGivenUp(own(), signal);
      const answer = await send(held.token, call, signal);
      if (answer.status !== 403) return answer;
      return send((await orGivenUp(own(held), signal)).token, call, signal);
    },
    callAs: send,
    [Symbol.asyncDispose]: () => connections[Symbol.asyncDispose](),
  };
}

function toOwnToken(body: unknown, startedAt: number): OwnToken {
  const parsed = loggedIn.safeParse(body);
  if (!parsed.success) throw notVault();
  const { client_token, lease_duration: seconds, renewable } = parsed.data.auth;
  // Nought means a token without an end.
  const lives = seconds === 0 ? Number.POSITIVE_INFINITY : seconds * 1000;
  return {
    token: new Secret(client_token),
    renewable,
    renewAt: startedAt + lives * (2 / 3),
    endsAt: startedAt + lives,
  };
}

/** What each request is made of. */
interface Sent {
  readonly origin: string;
  readonly namespace: string | undefined;
  readonly token: Secret | undefined;
  readonly call: VaultCall;
  readonly signal: AbortSignal | undefined;
}

/**
 * node-vault knows the verbs and the paths; how it is sent is ours. It hands what it would send to `request-promise`, and
 * gets every answer back as a success, so that it makes no error of its own: those carry what was sent (H3).
 */
async function ask(
  { fetch }: TargetConnections,
  { origin, namespace, token, call, signal }: Sent,
): Promise<VaultAnswer> {
  const transport = async (options: {
    readonly uri: string;
    readonly method: string;
    readonly json?: unknown;
  }): Promise<{ statusCode: 200; request: { path: string }; body: VaultAnswer }> => {
    const response = await fetch(options.uri, {
      method: options.method === "GET" ? "GET" : "POST",
      // Ours alone: node-vault would add the token and the namespace of this process's environment.
      headers: {
        "x-vault-request": "true",
        ...(token === undefined ? {} : { "x-vault-token": token.reveal() }),
        ...(namespace === undefined ? {} : { "x-vault-namespace": namespace }),
        ...(options.json === undefined ? {} : { "content-type": "application/json" }),
      },
      ...(options.json === undefined ? {} : { body: JSON.stringify(options.json) }),
      signal: signal ?? null,
    });
    return { statusCode: 200, request: { path: "" }, body: await toAnswer(response) };
  };
  const client = nodeVault({
    endpoint: origin,
    // `DEBUG=node-vault` prints what is written, and the log-in's secret with it.
    debug: () => undefined,
    "request-promise": { defaults: () => transport },
  });
  // An empty one given falls back to the environment's.
  (client as unknown as { pathPrefix: string }).pathPrefix = "";
  const path = encoded(call.path);
  const answer: unknown = await (call.method === "read" ? client.read(path) : client.write(path, call.data ?? {}));
  return answer as VaultAnswer;
}

function encoded(path: string): string {
  const segments = path.split("/");
  if (segments.some((segment) => segment === "" || segment === "." || segment === ".."))
    throw new MayflyError("internal", "a path of Vault's has an empty segment, or one that leads elsewhere");
  return segments.map(encodeURIComponent).join("/");
}

const refusal = z.object({ errors: z.array(z.string()) });

async function toAnswer(response: Response): Promise<VaultAnswer> {
  const { status, ok } = response;
  const text = await response.text();
  const body = text === "" ? undefined : fromJson(text);
  if (ok && text !== "" && body === undefined) throw notVault();
  const said = refusal.safeParse(body);
  return {
    ok,
    status,
    body,
    errors: !ok && said.success ? said.data.errors : [],
    refusal(detail = "") {
      // 412 not yet replicated, 472 and 473 a standby that does not forward: another node, or another moment, may do it.
      if (status !== 412 && status !== 472 && status !== 473) return refusalOf(response, CALLED, detail);
      return new MayflyError("target_unavailable", `${CALLED} answered ${status}: this node cannot say`);
    },
  };
}

function fromJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** For an answer that Vault would not give: something stands between. */
export function notVault(): MayflyError {
  return new MayflyError("target_unavailable", "what answered does not speak as Vault does");
}

/** A log-in is shared: who gives up stops waiting for it, and does not stop it. */
function orGivenUp<Value>(promise: Promise<Value>, signal: AbortSignal): Promise<Value> {
  return new Promise((resolve, reject) => {
    const stop = (): void =>
      reject(new MayflyError("target_unavailable", `${CALLED} was given up on before it answered`));
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}
