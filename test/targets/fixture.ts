import { type AnyIssuer, downstreamIssuer } from "../../src/issuers/registry.ts";
import { anOwner, aResource, fresh } from "../registry/builders.ts";
import { type Got, type Registry, registry } from "../registry/harness.ts";
import { type PostgresTarget, postgresTarget } from "../support/postgres-target.ts";

/** A registry and a PostgreSQL to be registered in it. */
export interface Fixture extends AsyncDisposable {
  readonly r: Registry;
  readonly far: PostgresTarget;
  /** The body of a registration that passes. */
  body(changes?: object): Promise<Record<string, unknown>>;
  register(changes?: object): Promise<Got>;
  registered(changes?: object): Promise<{ id: string; etag: string; at: string }>;
}

export async function fixture(): Promise<Fixture> {
  const r = await registry();
  const far = await postgresTarget();
  const body = async (changes: object = {}) => ({
    name: fresh("db"),
    issuer: "postgres",
    owner_id: await anOwner(r),
    config: far.config,
    max_ttl_seconds: 900,
    resources: [{ resource: await aResource(r), access: { read: { roles: [far.readers] } } }],
    ...changes,
  });
  const register = async (changes: object = {}) =>
    r.ask("admin/eve", "POST", "/v1/targets", { body: await body(changes) });
  return {
    r,
    far,
    body,
    register,
    async registered(changes = {}) {
      const got = await register(changes);
      if (got.status !== 201) throw new Error(got.text);
      return { id: got.json.id, etag: got.etag ?? "", at: `/v1/targets/${got.json.id}` };
    },
    async [Symbol.asyncDispose]() {
      await r[Symbol.asyncDispose]();
      await far[Symbol.asyncDispose]();
    },
  };
}

/** Replaces members of the Postgres issuer while `work` runs. */
export async function withIssuer<Value>(members: Partial<AnyIssuer>, work: () => Promise<Value>): Promise<Value> {
  const issuer = downstreamIssuer("postgres") as unknown as Record<string, unknown>;
  const real = { ...issuer };
  Object.assign(issuer, members);
  try {
    return await work();
  } finally {
    Object.assign(issuer, real);
  }
}
