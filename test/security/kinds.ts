import { createHash, createPrivateKey, randomUUID } from "node:crypto";
import { decodeJwt, exportJWK, generateKeyPair, type JWK, SignJWT } from "jose";
import { signAdminToken } from "../../src/identity/admin-token.ts";
import { json, type LocalServer, localServer } from "../identity/local-server.ts";
import { openTask, registerClient } from "../oauth/harness.ts";
import type { App } from "../support/app.ts";
import { aTarget, type Seeded, seed } from "../support/seed.ts";

/** The kinds of JWT, and of each its explicit type (RFC 8725 §3.11), `null` for those that have none. */
export const kindTypes = {
  "client assertion": "client-authentication+jwt",
  "JWT-SVID": null,
  "Kubernetes token": null,
  "ID token": null,
  "access token of ours": "at+jwt",
  "access token of an issuer": "at+jwt",
  "DPoP proof": "dpop+jwt",
  "security event": "secevent+jwt",
  "status list": "statuslist+jwt",
  "transaction token": "txntoken+jwt",
  "ID-JAG": "oauth-id-jag+jwt",
  "workload identity token": "wit+jwt",
  "workload proof": "wpt+jwt",
  "introspection answer of ours": "token-introspection+jwt",
  "admin token": "mayfly-admin+jwt",
} as const satisfies Readonly<Record<string, string | null>>;
export type KindName = keyof typeof kindTypes;
export const kindNames = Object.keys(kindTypes) as KindName[];

/** The kinds that nothing tells from another JWT of their issuer once their `typ` is gone: no claim is theirs alone. */
export const knownByTypAlone: readonly KindName[] = ["client assertion", "access token of an issuer", "ID-JAG"];

type Claims = Readonly<Record<string, unknown>>;

/** How a token is made: `typ` instead of its kind's own (`null`: none), and without the claims that give its kind away. */
interface Made {
  readonly typ?: string | null;
  readonly unmarked?: boolean;
}

/** One kind of JWT, each time a new one: right in issuer, audience, times, signature and subject wherever it is sent. */
interface Kind {
  make(how?: Made): Promise<string>;
  /** Its claims as this tenant's own signing key would sign them: with Mayfly's issuer and the id of the live credential. */
  makeByMayfly(typ: string): Promise<string>;
}

/** A tenant that trusts a client, a cluster, an OIDC issuer and a SPIFFE trust domain, all of them the one agent's. */
export interface World extends AsyncDisposable {
  readonly s: Seeded;
  readonly kinds: Readonly<Record<KindName, Kind>>;
  readonly taskId: string;
  /** The credential that the access token of ours is. A dead one is followed by a new one. */
  live(): Promise<{ readonly id: string; readonly token: string }>;
  forgetLive(): void;
}

const CLUSTER = "https://kubernetes.default.svc.cluster.local";
const SERVICE_ACCOUNT = "system:serviceaccount:agents:researcher";
const SPIFFE_ID = "spiffe://acme.test/agent/researcher";
const USER = "24828976-1001";

async function keyPair(alg: "ES256" | "RS256", kid: string) {
  const { privateKey, publicKey } = await generateKeyPair(alg);
  return { alg, kid, privateKey, jwk: { ...(await exportJWK(publicKey)), kid } };
}
type Key = Pick<Awaited<ReturnType<typeof keyPair>>, "alg" | "kid" | "privateKey">;

const seconds = (): number => Math.floor(Date.now() / 1000);
const hash = (text: string): string => createHash("sha256").update(text).digest("base64url");

/** Registers the trust sources over the API, their keys at real servers where they have such, and binds their subjects. */
export async function makeWorld(app: App): Promise<World> {
  const s = await seed(app.broker, app.idp);
  const ours = app.broker.issuerUrl("default");
  const idpKey = await keyPair("ES256", "idp-1");
  const clusterKey = await keyPair("RS256", "cluster-1");
  const spireKey = await keyPair("ES256", "spire-1");
  const proofKey = await keyPair("ES256", "proof-1");
  const server = await publisher({ "/idp/keys": [idpKey.jwk], "/openid/v1/jwks": [clusterKey.jwk] });
  const idp = `${server.origin}/idp`;
  const admin = await app.token({ sub: "admin" });
  const made = async (path: string, body: object): Promise<string> => {
    const answer = await app.call(admin, "POST", path, body);
    if (answer.status !== 201) throw new Error(`${path}: ${answer.text}`);
    return answer.body.id;
  };
  const bind = (trust_source_id: string, anchor_value: string, conditions: object[] = []) =>
    made("/v1/identities", { trust_source_id, agent_id: s.agentId, anchor_claim: "sub", anchor_value, conditions });
  const client = await registerClient(app, s, "reporter");
  const source = (body: object) => made("/v1/trust-sources", body);
  const oidc = await source({ name: "idp", kind: "oidc", issuer: idp });
  for (const subject of [USER, `${idp}/status/1`, "wimse://acme.test/researcher"]) await bind(oidc, subject);
  await bind(
    await source({ name: "cluster", kind: "jwks_uri", issuer: CLUSTER, jwks_uri: `${server.origin}/openid/v1/jwks` }),
    SERVICE_ACCOUNT,
    [{ claim: "/kubernetes.io/serviceaccount/uid", equals: "sa-uid" }],
  );
  const bundle = { keys: [{ ...spireKey.jwk, use: "jwt-svid" }] };
  await bind(await source({ name: "spire", kind: "spiffe", issuer: "spiffe://acme.test", bundle }), SPIFFE_ID);
  const taskId = await openTask(app, s);
  // An access token for Mayfly itself: at every place of Mayfly its audience is right.
  await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
    aTarget(tx, app.broker, {
      tenantId: s.tenantId,
      ownerId: s.ownerId,
      name: "itself",
      issuer: "jwt",
      config: { audience: ours },
      resources: { [s.resourceId]: { read: {} } },
    }),
  );

  let live: Promise<{ id: string; token: string }> | undefined;
  const mint = async (): Promise<{ id: string; token: string }> => {
    const delegation = { max_depth: 1, allowed: [] };
    const body = { task_id: taskId, target: "itself", actions: ["read"], resources: ["tickets"], delegation };
    const answer = await app.call(await app.token({ sub: s.agentSub }), "POST", "/v1/credentials", body);
    return { id: answer.body.credential.id, token: answer.body.secret.access_token };
  };
  const liveNow = () => (live ??= mint());

  const times = (): Claims => ({ iat: seconds() - 5, exp: seconds() + 240, jti: randomUUID() });
  const sign = (key: Key, header: object, claims: Claims): Promise<string> =>
    new SignJWT(claims).setProtectedHeader({ alg: key.alg, kid: key.kid, ...header }).sign(key.privateKey);
  const header = (kind: KindName, { typ = kindTypes[kind] }: Made): object => (typ === null ? {} : { typ });
  // With the very key of access tokens, whatever the typ: Mayfly's own signer would refuse to.
  const signer = async () => {
    const { kid } = await app.broker.keys.signer(s.tenantId, "access_token");
    const { private_sealed: sealed } = await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
      tx.selectFrom("signing_keys").select("private_sealed").where("kid", "=", kid).executeTakeFirstOrThrow(),
    );
    if (sealed === null) throw new Error("the active key has no private part");
    const key = createPrivateKey(app.broker.keySealer.open(sealed, `${s.tenantId}/${kid}`));
    return {
      sign: (typ: string, claims: Claims) =>
        new SignJWT(claims).setProtectedHeader({ alg: "ES256", typ, kid }).sign(key),
    };
  };
  const byMayfly =
    (claims: () => Promise<Claims>): Kind["makeByMayfly"] =>
    async (typ) =>
      (await signer()).sign(typ, { ...(await claims()), iss: ours, jti: (await liveNow()).id });

  /** A kind of a trust source: its claims, and apart from them those that give it away. */
  const foreign = (kind: KindName, key: Key, claims: () => Claims, marks: Claims = {}): Kind => ({
    make: (how = {}) =>
      sign(key, header(kind, how), { aud: ours, ...times(), ...claims(), ...(how.unmarked ? {} : marks) }),
    makeByMayfly: byMayfly(async () => ({ aud: ours, ...times(), ...claims(), ...marks })),
  });
  const ofIdp = (kind: KindName, claims: Claims, marks: Claims = {}): Kind =>
    foreign(kind, idpKey, () => ({ iss: idp, sub: USER, ...claims }), marks);
  const own = (genuine: () => Promise<string>): Kind => ({
    make: async ({ typ } = {}) =>
      typ === undefined ? genuine() : (await signer()).sign(typ ?? "JWT", decodeJwt(await genuine())),
    makeByMayfly: byMayfly(async () => decodeJwt(await genuine())),
  });
  const proofClaims = (): Claims => ({
    ...times(),
    iss: idp,
    sub: USER,
    aud: ours,
    htm: "POST",
    htu: `${app.api.url}/oauth/token`,
    nonce: app.broker.proofs.nonce(),
    ath: hash("token"),
  });
  const { kid: _, ...proofJwk } = proofKey.jwk;

  const kinds: Record<KindName, Kind> = {
    "client assertion": foreign("client assertion", { ...client, alg: "ES256" }, () => ({
      iss: client.clientId,
      sub: client.clientId,
    })),
    // No iss and no jti, as SPIRE makes them.
    "JWT-SVID": foreign("JWT-SVID", spireKey, () => ({ sub: SPIFFE_ID, aud: [ours], jti: undefined })),
    "Kubernetes token": foreign("Kubernetes token", clusterKey, () => ({
      iss: CLUSTER,
      sub: SERVICE_ACCOUNT,
      aud: [ours],
      nbf: seconds() - 5,
      "kubernetes.io": {
        namespace: "agents",
        pod: { name: "researcher-0", uid: "pod-uid" },
        serviceaccount: { name: "researcher", uid: "sa-uid" },
      },
    })),
    "ID token": ofIdp("ID token", {
      azp: ours,
      auth_time: seconds() - 9,
      nonce: "n-0S6",
      acr: "urn:acr:2",
      amr: ["pwd"],
    }),
    "access token of ours": own(async () => (await liveNow()).token),
    "access token of an issuer": ofIdp("access token of an issuer", { client_id: "s6BhdRkqt3", scope: "openid" }),
    "DPoP proof": {
      make: (how = {}) =>
        new SignJWT(proofClaims())
          .setProtectedHeader({ alg: "ES256", jwk: proofJwk, ...header("DPoP proof", how) })
          .sign(proofKey.privateKey),
      makeByMayfly: byMayfly(async () => proofClaims()),
    },
    "security event": ofIdp(
      "security event",
      { sub_id: { format: "iss_sub", iss: idp, sub: USER }, txn: "8675309" },
      {
        events: {
          "https://schemas.openid.net/secevent/caep/event-type/session-revoked": { event_timestamp: seconds() },
        },
      },
    ),
    "status list": ofIdp(
      "status list",
      { sub: `${idp}/status/1`, ttl: 300 },
      { status_list: { bits: 1, lst: "eNrbuRgAAhcBXQ" } },
    ),
    "transaction token": ofIdp(
      "transaction token",
      { txn: "97053963-771d-49cc-a4e3-20aad399c312", scope: "trade.stocks", req_wl: "apigateway.acme.test" },
      { tctx: { action: "BUY", ticker: "MSFT" }, rctx: { req_ip: "69.151.72.123" } },
    ),
    "ID-JAG": ofIdp("ID-JAG", { client_id: "reporter", resource: "https://tickets.test/api", scope: "read" }),
    "workload identity token": ofIdp(
      "workload identity token",
      { sub: "wimse://acme.test/researcher" },
      { cnf: { jwk: { ...proofJwk, alg: "ES256" } } },
    ),
    "workload proof": ofIdp("workload proof", {}, { wth: hash("wit"), ath: hash("token") }),
    "introspection answer of ours": own(async () =>
      (await signer()).sign(kindTypes["introspection answer of ours"], {
        ...times(),
        iss: ours,
        aud: ours,
        sub: s.agentId,
        token_introspection: { active: true, ...decodeJwt((await liveNow()).token) },
      }),
    ),
    "admin token": own(() =>
      signAdminToken(app.broker.keys, { id: s.tenantId, issuer: ours }, "root", ["admin"], Date.now()),
    ),
  };
  return {
    s,
    kinds,
    taskId,
    live: liveNow,
    forgetLive: () => {
      live = undefined;
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

/** Key sets at their paths, and the discovery document of the issuer under `/idp`. */
function publisher(sets: Readonly<Record<string, readonly JWK[]>>): Promise<LocalServer> {
  return localServer((request, response) => {
    const path = request.url ?? "";
    const origin = `http://${request.headers.host}`;
    const document = path.startsWith("/idp/.well-known")
      ? { issuer: `${origin}/idp`, jwks_uri: `${origin}/idp/keys` }
      : { keys: sets[path] ?? [] };
    json(document)(request, response);
  });
}
