import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { TASK_DETAILS } from "../../src/issuers/registry.ts";
import { type App, startApp } from "../support/app.ts";
import { type Answered, type CallFromMany, fromManyAddresses } from "../support/many-addresses.ts";
import { type KindName, kindNames, kindTypes, knownByTypAlone, makeWorld, type World } from "./kinds.ts";

// standards §19.1: every kind of JWT at every place that takes one. Each token is right in everything but its kind, so
// what refuses it is the rule that keeps kinds apart (RFC 8725 §3.11, §3.12).

let app: App;
let world: World;
let call: CallFromMany;
beforeAll(async () => {
  app = await startApp({ worker: false });
  world = await makeWorld(app);
  call = fromManyAddresses(app.api.port);
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  await app[Symbol.asyncDispose]();
});

/** One place that takes a JWT. */
interface Place {
  readonly name: string;
  /** THE TABLE: the kinds that pass here. Every other one is refused. */
  readonly admits: readonly KindName[];
  /** What every other kind is answered. */
  readonly refusal: string;
  /** What a kind is answered that may come in, and may not do this. */
  readonly forbids?: Partial<Record<KindName, string>>;
  /** Whose keys count here: the tenant's trust sources', the one in the token's own header, or this tenant's own. */
  readonly trusts: "sources" | "itself" | "mayfly";
  /** The `typ` that what passes here may have; `null`: none. */
  readonly wears: readonly (string | null)[];
  /** Sends it, and says `passes`, or what was answered. */
  send(token: string): Promise<string>;
}

const workloads = ["JWT-SVID", "Kubernetes token", "ID token"] as const satisfies KindName[];
const bearer = {
  admits: workloads,
  refusal: "401 unauthenticated",
  trusts: "sources",
  wears: [null, "JWT"],
} as const satisfies Partial<Place>;
// docs/oauth.md: a workload's own token is taken for its client's assertion. For SPIFFE there is a draft, not offered yet.
const assertion = {
  ...bearer,
  admits: ["client assertion", "Kubernetes token", "ID token"],
  refusal: "401 invalid_client",
} as const satisfies Partial<Place>;
const token = { admits: ["access token of ours"], trusts: "mayfly", wears: ["at+jwt"] } as const;

const places: readonly Place[] = [
  {
    name: "Bearer at GET /v1/credentials",
    ...bearer,
    admits: [...workloads, "admin token"],
    send: async (jwt) => outcome(await call("GET", "/v1/credentials", bearing(jwt))),
  },
  {
    name: "Bearer at POST /v1/credentials",
    ...bearer,
    forbids: { "admin token": "403 forbidden" },
    send: async (jwt) =>
      outcome(
        await call(
          "POST",
          "/v1/credentials",
          { ...bearing(jwt), "content-type": "application/json" },
          JSON.stringify({ task_id: world.taskId, target: "tickets-api", actions: ["read"], resources: ["tickets"] }),
        ),
      ),
  },
  {
    name: "Bearer at /oauth/token",
    ...bearer,
    refusal: "401 invalid_client",
    forbids: { "admin token": "400 unauthorized_client" },
    send: async (jwt) => outcome(await post("/oauth/token", grant(), bearing(jwt))),
  },
  ...["/oauth/introspect", "/oauth/revoke"].map(
    (path): Place => ({
      name: `Bearer at ${path}`,
      ...bearer,
      admits: [...workloads, "admin token"],
      refusal: "401 invalid_client",
      send: async (jwt) => outcome(await post(path, { token: "none" }, bearing(jwt))),
    }),
  ),
  ...["/oauth/token", "/oauth/introspect", "/oauth/revoke"].map(
    (path): Place => ({
      name: `client_assertion at ${path}`,
      ...assertion,
      send: async (jwt) =>
        outcome(await post(path, { ...(path.endsWith("token") ? grant() : { token: "none" }), ...asserting(jwt) })),
    }),
  ),
  {
    name: "DPoP at /oauth/token",
    admits: ["DPoP proof"],
    refusal: "400 invalid_dpop_proof",
    trusts: "itself",
    wears: ["dpop+jwt"],
    send: async (jwt) => outcome(await post("/oauth/token", grant(), { ...bearing(await agent()), dpop: jwt })),
  },
  {
    name: "subject_token at /oauth/token",
    ...token,
    // RFC 8693 §2.2.2
    refusal: "400 invalid_request",
    async send(jwt) {
      const { resource: _resource, ...form } = grant();
      const exchange = {
        ...form,
        grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
        subject_token: jwt,
        subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
      };
      return outcome(await post("/oauth/token", exchange, bearing(await agent())));
    },
  },
  {
    name: "token at /oauth/introspect",
    ...token,
    // RFC 7662 §2.2
    refusal: "inactive",
    async send(jwt) {
      const answer = await post("/oauth/introspect", { token: jwt }, bearing(await staff("orchestrator")));
      if (answer.status !== 200) return outcome(answer);
      return answer.body.active === true ? "passes" : "inactive";
    },
  },
  {
    name: "token at /oauth/revoke",
    ...token,
    // RFC 7009 §2.2
    refusal: "silence, and the credential lives",
    async send(jwt) {
      const { id } = await world.live();
      const answer = await post("/oauth/revoke", { token: jwt }, bearing(await staff("orchestrator")));
      if (answer.status !== 200) return outcome(answer);
      const { body } = await call("GET", `/v1/credentials/${id}`, bearing(await staff("auditor")));
      if (body.state === "active") return "silence, and the credential lives";
      world.forgetLive();
      return "passes";
    },
  },
];

const bearing = (jwt: string) => ({ authorization: `Bearer ${jwt}` });
const staff = (sub: string): Promise<string> => app.token({ sub });
const agent = (): Promise<string> => app.token({ sub: world.s.agentSub });
const asserting = (jwt: string) => ({
  client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
  client_assertion: jwt,
});
const grant = () => ({
  grant_type: "client_credentials",
  resource: "https://tickets.test/api",
  authorization_details: JSON.stringify([
    { type: TASK_DETAILS, task_id: world.taskId, actions: ["read"], resources: ["tickets"] },
  ]),
});
const post = (path: string, form: Record<string, string>, headers: Record<string, string> = {}): Promise<Answered> =>
  call(
    "POST",
    path,
    { "content-type": "application/x-www-form-urlencoded", ...headers },
    new URLSearchParams(form).toString(),
  );

function outcome({ status, headers, body }: Answered): string {
  if (status < 300) return "passes";
  if (status === 401 && body.code !== undefined) expect(headers["www-authenticate"]).toMatch(/^Bearer/);
  return `${status} ${body.code ?? body.error}`;
}

describe.each(places)("$name", ({ admits, refusal, forbids, trusts, wears, send }) => {
  const passes = (kind: KindName): boolean => admits.includes(kind);
  const expected = (kind: KindName): string => (passes(kind) ? "passes" : (forbids?.[kind] ?? refusal));
  const refused = kindNames.filter((kind) => !passes(kind));

  test.each(kindNames)("%s, as its issuer makes it", async (kind) => {
    expect(await send(await world.kinds[kind].make())).toBe(expected(kind));
  });

  if (trusts === "mayfly")
    // Not the other access token: signed by Mayfly, with a credential's id, it would be the real one.
    test.each(refused.filter((kind) => kind !== "access token of an issuer"))(
      "%s, signed by Mayfly's own key, with the id of a live credential",
      async (kind) => {
        expect(await send(await world.kinds[kind].makeByMayfly(kindTypes[kind] ?? "JWT"))).toBe(refusal);
      },
    );

  // What passes here, under the type of another kind: the type alone is enough to refuse it.
  const alien = (typ: string | null, good: KindName) => typ !== null && !wears.includes(typ) && typ !== kindTypes[good];
  const types = [...new Set(Object.values(kindTypes))];
  test.each(admits.flatMap((good) => types.filter((typ) => alien(typ, good)).map((typ) => [good, typ] as const)))(
    "%s with the typ %s",
    async (good, typ) => {
      expect(await send(await world.kinds[good].make({ typ }))).toBe(refusal);
    },
  );

  // Another kind under the type of what passes here: its claims give it away, or its key.
  test.each(refused.flatMap((kind) => wears.map((typ) => [kind, typ] as const)))(
    "%s with the typ %s",
    async (kind, typ) => {
      const isPlain = trusts === "sources" && knownByTypAlone.includes(kind);
      expect(await send(await world.kinds[kind].make({ typ }))).toBe(isPlain ? "passes" : refusal);
    },
  );
});

test.each(kindNames.filter((kind) => !/ of ours|DPoP|admin/.test(kind)))(
  "%s is refused for its kind alone: without its type and its own claims it is a good token of its issuer",
  async (kind) => {
    const plain = await world.kinds[kind].make({ typ: null, unmarked: true });
    expect(outcome(await call("GET", "/v1/credentials", bearing(plain)))).toBe("passes");
  },
);

test("the table is of twelve kinds and more, each place admits at least one, and each kind passes somewhere it belongs", () => {
  expect(kindNames.length).toBeGreaterThanOrEqual(12);
  expect(new Set(places.map(({ name }) => name)).size).toBe(places.length);
  for (const { admits } of places) expect(admits.length).toBeGreaterThan(0);
});

test.each([["client-authentication+jwt"], [null]])(
  "a client assertion of type %s that was used is worth nothing as Bearer: its jti works once, wherever it is sent",
  async (typ) => {
    const jwt = await world.kinds["client assertion"].make({ typ });
    expect(outcome(await post("/oauth/introspect", { token: "none", ...asserting(jwt) }))).toBe("passes");
    expect(outcome(await call("GET", "/v1/credentials", bearing(jwt)))).toBe("401 unauthenticated");
    expect(outcome(await post("/oauth/introspect", { token: "none" }, bearing(jwt)))).toBe("401 invalid_client");
  },
);
