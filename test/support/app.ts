import { randomBytes } from "node:crypto";
import type { Api } from "../../src/api.ts";
import { startApi } from "../../src/api.ts";
import { type Broker, openBroker } from "../../src/broker.ts";
import { loadConfig } from "../../src/config.ts";
import { createLog } from "../../src/lib/log.ts";
import { startWorker, type Worker } from "../../src/worker.ts";
import { type TestDatabase, testDatabase } from "./database.ts";
import { type Workload, workload } from "./workload.ts";

/** What the API answered. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into bodies by name and assert what they find
  readonly body: any;
  readonly text: string;
}

/** Mayfly in this process on a database of its own: API, worker, real HTTP, real Postgres. */
export interface App extends AsyncDisposable {
  readonly broker: Broker;
  readonly api: Api;
  readonly database: TestDatabase;
  /** The issuer behind the trust source that {@link seed} registers. */
  readonly idp: Workload;
  /** Everything logged so far. */
  readonly logged: string[];
  readonly env: Readonly<Record<string, string>>;
  /** Calls the API with this token (none: `null`). A body is sent as JSON, a string as it is. */
  call(
    token: string | null,
    method: string,
    path: string,
    body?: unknown,
    headers?: Record<string, string>,
  ): Promise<Answer>;
  /** A token of the test's issuer for a tenant (default: `default`). */
  token(claims: Readonly<Record<string, unknown>>, tenant?: string): Promise<string>;
}

export interface AppOptions {
  /** Default true: the credentials of a test die as they do in production. */
  readonly worker?: boolean;
  readonly env?: Readonly<Record<string, string>>;
  readonly database?: TestDatabase;
}

/** The environment of a Mayfly on this database, for processes and for {@link startApp}. */
export function appEnv(database: TestDatabase, extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  return {
    DATABASE_URL: database.runtimeUrl,
    MAYFLY_KEK: randomBytes(32).toString("base64url"),
    MAYFLY_PORT: "0",
    MAYFLY_LOG_LEVEL: "debug",
    MAYFLY_SWEEP_SECONDS: "1",
    MAYFLY_MINT_TIMEOUT_SECONDS: "5",
    MAYFLY_ALLOW_LOOPBACK_HTTP: "true",
    ...extra,
  };
}

export async function startApp(options: AppOptions = {}): Promise<App> {
  const database = options.database ?? (await testDatabase());
  const env = appEnv(database, options.env);
  const logged: string[] = [];
  const log = createLog("debug", { write: (line) => void logged.push(line) });
  const broker = await openBroker(loadConfig(env), log);
  const worker: Worker | undefined = options.worker === false ? undefined : await startWorker(broker);
  const api = await startApi(broker, { validateReplies: true });
  const idp = await workload("https://idp.test");
  return {
    broker,
    api,
    database,
    idp,
    logged,
    env,
    async call(token, method, path, body, headers = {}) {
      const response = await fetch(`http://127.0.0.1:${api.port}${path}`, {
        method,
        headers: {
          ...(token === null ? {} : { authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { "content-type": "application/json" }),
          ...headers,
        },
        ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
      });
      const text = await response.text();
      const isJson = (response.headers.get("content-type") ?? "").includes("json");
      return {
        status: response.status,
        headers: response.headers,
        body: isJson && text !== "" ? JSON.parse(text) : undefined,
        text,
      };
    },
    token: (claims, tenant = "default") => idp.token(broker.issuerUrl(tenant), claims),
    async [Symbol.asyncDispose]() {
      await api.stop();
      await worker?.stop();
      await broker[Symbol.asyncDispose]();
      if (options.database === undefined) await database[Symbol.asyncDispose]();
    },
  };
}
