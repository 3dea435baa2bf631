import { randomBytes } from "node:crypto";
import pg from "pg";
import { type Db, openDatabase } from "../../src/db/database.ts";
import type { Endpoint } from "../../src/http/endpoint.ts";
import { createPager } from "../../src/http/page.ts";
import { createHttpServer } from "../../src/http/server.ts";
import { identityEndpoints } from "../../src/identity/identities.routes.ts";
import type { Principal, Role } from "../../src/identity/principal.ts";
import { createSafeFetch } from "../../src/identity/safe-fetch.ts";
import { trustSourceEndpoints } from "../../src/identity/trust-sources.routes.ts";
import { MayflyError } from "../../src/lib/errors.ts";
import { type Id, SYSTEM_TENANT } from "../../src/lib/ids.ts";
import { createLog } from "../../src/lib/log.ts";
import { createSealer, type Sealer } from "../../src/lib/seal.ts";
import { agentEndpoints } from "../../src/registry/agents.routes.ts";
import type { OnTenantCreated } from "../../src/registry/manage-tenants.ts";
import { ownerEndpoints } from "../../src/registry/owners.routes.ts";
import { purposeEndpoints } from "../../src/registry/purposes.routes.ts";
import { relationshipEndpoints } from "../../src/registry/relationships.routes.ts";
import { resourceEndpoints } from "../../src/registry/resources.routes.ts";
import { teamEndpoints } from "../../src/registry/teams.routes.ts";
import { tenantEndpoints } from "../../src/registry/tenants.routes.ts";
import { createTargetClients, type TargetClients } from "../../src/targets/target-clients.ts";
import { targetEndpoints } from "../../src/targets/targets.routes.ts";
import { testDatabase } from "../support/database.ts";
import { memoryIdempotency } from "../support/memory-idempotency.ts";

/** What the API answered. `everything` is what a caller can tell two answers apart by. */
export interface Got {
  readonly status: number;
  readonly etag: string | undefined;
  readonly location: string | undefined;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into bodies by name and assert what they find
  readonly json: any;
  readonly everything: string;
}

export interface Ask {
  readonly body?: unknown;
  readonly ifMatch?: string | undefined;
  readonly requestId?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** The registry's endpoints over real HTTP on a database of one test file's own. */
export interface Registry extends AsyncDisposable {
  readonly endpoints: readonly Endpoint[];
  readonly db: Db;
  readonly targets: TargetClients;
  readonly sealer: Sealer;
  readonly runtimeUrl: string;
  /** How often the worker was asked to look. */
  readonly wakes: () => number;
  readonly logged: string[];
  /** `who` is `<role>[+<role>][@<tenant>][/<subject>]`: `admin`, `approver@other/bob`. The tenant is `default` unless said. */
  ask(who: string, method: string, path: string, ask?: Ask): Promise<Got>;
  /** POSTs as admin and gives the id of what was made. Throws with the answer when it was refused. */
  make(path: string, body: unknown, who?: string): Promise<string>;
  /** Runs as the superuser, past row-level security. */
  sql<Row = Record<string, unknown>>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** The audit events about one thing, oldest first. */
  events(subjectId: string): Promise<readonly { type: string; actor: string; data: Record<string, unknown> }[]>;
}

export const DEFAULT_TENANT = "ten_00000000000070008000000000000001" as Id<"tenant">;
/** Another tenant, which the harness makes. */
export const OTHER_TENANT = "ten_0000000000007000800000000000000b" as Id<"tenant">;
const tenantIds: Readonly<Record<string, Id<"tenant">>> = {
  default: DEFAULT_TENANT,
  other: OTHER_TENANT,
  system: SYSTEM_TENANT,
};

const issuerUrl = (name: string): string => `https://mayfly.test/t/${name}`;

export interface RegistryOptions {
  readonly onTenantCreated?: OnTenantCreated;
  /** Connects as a superuser, whom row-level security does not bind: what keeps tenants apart then is the code alone. */
  readonly unbound?: boolean;
}

export async function registry(options: RegistryOptions = {}): Promise<Registry> {
  const database = await testDatabase();
  const logged: string[] = [];
  const log = createLog("debug", { write: (line) => void logged.push(line) });
  const db = openDatabase({
    connectionString: options.unbound === true ? database.superuserUrl : database.runtimeUrl,
    log,
  });
  const superuser = new pg.Pool({
    connectionString: database.superuserUrl,
    max: 4,
    options: "-c search_path=mayfly",
  });
  superuser.on("error", () => undefined);
  await superuser.query("insert into tenants (id, name, display_name) values ($1, 'other', 'Another')", [OTHER_TENANT]);

  let wakes = 0;
  const sealer = createSealer(randomBytes(32), "target-config");
  const targets = createTargetClients(db, sealer);
  const deps = {
    db,
    pager: createPager(randomBytes(32)),
    wakeUps: {
      now: () => {
        wakes += 1;
      },
      at: () => undefined,
    },
    issuerUrl,
    targets,
    targetConfigs: sealer,
    fetchJson: createSafeFetch({ allowLoopbackHttp: true }),
    onTenantCreated: options.onTenantCreated ?? (async () => undefined),
  };
  const endpoints = [
    ...tenantEndpoints(deps),
    ...teamEndpoints(deps),
    ...ownerEndpoints(deps),
    ...agentEndpoints(deps),
    ...identityEndpoints(deps),
    ...trustSourceEndpoints(deps),
    ...resourceEndpoints(deps),
    ...relationshipEndpoints(deps),
    ...purposeEndpoints(deps),
    ...targetEndpoints(deps),
  ];
  const http = createHttpServer({
    endpoints,
    authenticate: async (headers) => principalOf(headers.authorization),
    idempotency: memoryIdempotency(),
    log,
    health: {},
    onRefused: async () => undefined,
    validateReplies: true,
  });
  const port = await http.start("127.0.0.1", 0);

  const ask: Registry["ask"] = async (who, method, path, { body, ifMatch, requestId, headers: more } = {}) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${who}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...(ifMatch === undefined ? {} : { "if-match": ifMatch }),
        ...(requestId === undefined ? {} : { "x-request-id": requestId }),
        ...more,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    const headers = [...response.headers].filter(([name]) => name !== "date").toSorted(([a], [b]) => (a < b ? -1 : 1));
    return {
      status: response.status,
      etag: response.headers.get("etag") ?? undefined,
      location: response.headers.get("location") ?? undefined,
      text,
      json: text === "" ? undefined : JSON.parse(text),
      everything: JSON.stringify([response.status, headers, text]),
    };
  };
  const sql: Registry["sql"] = async <Row>(text: string, values: readonly unknown[] = []) =>
    (await superuser.query(text, [...values])).rows as Row[];

  return {
    endpoints,
    db,
    targets,
    sealer,
    runtimeUrl: database.runtimeUrl,
    wakes: () => wakes,
    logged,
    ask,
    async make(path, body, who = "admin") {
      const got = await ask(who, "POST", path, { body });
      if (got.status !== 201) throw new Error(`POST ${path} answered ${got.status}: ${got.text}`);
      return got.json.id as string;
    },
    sql,
    events: (subjectId) =>
      sql("select type, actor, data from audit_events where subject_id = $1 order by recorded_at, id", [subjectId]),
    async [Symbol.asyncDispose]() {
      await http.stop();
      await targets[Symbol.asyncDispose]();
      await db[Symbol.asyncDispose]();
      await superuser.end();
      await database[Symbol.asyncDispose]();
    },
  };
}

function principalOf(authorization: string | undefined): Principal {
  const match = /^Bearer ([a-z+]+)(?:@([a-z-]+))?(?:\/([a-zA-Z0-9|_-]+))?$/.exec(authorization ?? "");
  if (match === null) throw new MayflyError("unauthenticated", "not a caller of this test");
  const [, roles = "", tenantName = "default", subject] = match;
  const tenantId = tenantIds[tenantName];
  if (tenantId === undefined) throw new Error(`no tenant ${tenantName} in this test`);
  const given = roles.split("+") as Role[];
  return { tenantId, tenantName, subject: subject ?? `${roles}-1`, roles: given, binding: "bearer", generation: 1 };
}
