import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect as connectPlain } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { decodeJwt, exportJWK, type JWK } from "jose";
import * as oauth from "oauth4webapi";
import * as openid from "openid-client";
import { Agent, fetch as undiciFetch } from "undici";
import { bindingOf } from "../../src/credentials/mint-plan.ts";
import type { Principal } from "../../src/identity/principal.ts";
import { type Id, newId, SYSTEM_TENANT } from "../../src/lib/ids.ts";
import type { App } from "../support/app.ts";
import {
  asHeader,
  authority,
  type Certified,
  CLIENT_AUTH,
  certify,
  digitalSignature,
  distinguished,
  keyCertSign,
  names,
  SERVER_AUTH,
  x509,
} from "../support/certificates.ts";
import { anAgent, type Seeded, seed } from "../support/seed.ts";
import { workload } from "../support/workload.ts";
import { openTask, type RegisteredClient, registerClient } from "./harness.ts";
import {
  connectionOf,
  type Post,
  post,
  type Reply,
  register,
  startTlsApp,
  tlsOrigin,
  tokenForm,
} from "./mtls-harness.ts";

const SVID = "spiffe://prod.test/agent/1";

let app: App & { readonly server: Certified };
let s: Seeded;
let otherAgent: Id<"agent">;
let taskId: string;
/** The CA of the tenant's clients, and the one of another tenant. */
const corp = authority({ cn: "corp" });
const foreign = authority({ cn: "foreign" });
const spire = authority({ cn: "spire" });
const client = certify({
  by: corp,
  cn: "agent-1",
  san: [names.dns("agent-1.corp")],
  usage: [digitalSignature],
  eku: [CLIENT_AUTH],
});
const own = certify({ cn: "lonely", ca: true });
const ownAsJwk = certify({ cn: "lonely too" });
const expiredOwn = certify({ cn: "late", from: -7200, to: -3600 });
const svidWanted = { by: spire, san: [names.uri(SVID)], usage: [digitalSignature], eku: [CLIENT_AUTH, SERVER_AUTH] };
const svid = certify(svidWanted);
let jwtClient: RegisteredClient;
let sourceId: string;

beforeAll(async () => {
  app = await startTlsApp();
  s = await seed(app.broker, app.idp);
  taskId = await openTask(app, s);
  jwtClient = await registerClient(app, s, "reporter");
  otherAgent = await app.broker.db.withTenant({ tenantId: s.tenantId, actor: "test" }, (tx) =>
    anAgent(tx, { tenantId: s.tenantId, ownerId: s.ownerId }),
  );
  const source = {
    kind: "x509_ca",
    issuer: "corp-ca",
    certificates: [corp.cert],
    role_mappings: [{ when: [{ claim: "san_dns", equals: "gateway.corp" }], roles: ["auditor"] }],
  };
  ({ sourceId } = await register(app, s, source, ["san_dns", "agent-1.corp"]));
  const admin = await app.token({ sub: "admin" });
  const second = {
    trust_source_id: sourceId,
    agent_id: otherAgent,
    anchor_claim: "san_dns",
    anchor_value: "agent-2.corp",
  };
  expect((await app.call(admin, "POST", "/v1/identities", second)).status).toBe(201);
  await register(app, s, { kind: "self_signed", issuer: "lonely", certificates: [own.cert] }, ["sub", "lonely"]);
  const jwk: JWK = { ...(await exportJWK(x509(ownAsJwk).publicKey)), x5c: [ownAsJwk.der.toString("base64")] };
  await register(app, s, { kind: "self_signed", issuer: "lonely-jwk", jwks: { keys: [jwk] } }, ["sub", "lonely-jwk"]);
  await register(app, s, { kind: "self_signed", issuer: "late", certificates: [expiredOwn.cert] }, ["sub", "late"]);
  const bundle = {
    keys: [{ ...(await exportJWK(x509(spire).publicKey)), use: "x509-svid", x5c: [spire.der.toString("base64")] }],
  };
  await register(app, s, { kind: "spiffe", issuer: "spiffe://prod.test", bundle }, ["sub", SVID]);
  await app.broker.db.withTenant({ tenantId: SYSTEM_TENANT, actor: "test" }, (tx) =>
    tx
      .insertInto("tenants")
      .values({ id: newId("tenant"), name: "other", display_name: "Other" })
      .execute(),
  );
  const otherAdmin = await otherTenantAdmin();
  const theirs = { name: "theirs", kind: "x509_ca", issuer: "foreign-ca", certificates: [foreign.cert] };
  expect((await app.call(otherAdmin, "POST", "/v1/trust-sources", theirs)).status).toBe(201);
});
afterAll(async () => {
  await app[Symbol.asyncDispose]();
});

/** Somebody of the other tenant who may register trust sources there. */
async function otherTenantAdmin(): Promise<string> {
  const [tenant] = await app.broker.db.callAcrossTenants<{ id: Id<"tenant"> }>("tenant_by_name", ["other"]);
  if (tenant === undefined) throw new Error("no other tenant");
  await seed(app.broker, app.idp, { tenantId: tenant.id });
  return app.token({ sub: "admin" }, "other");
}

const tokenUrl = (tenant = "default"): string => `${tlsOrigin(app)}/t/${tenant}/oauth/token`;
const plainTokenUrl = (): string => `http://127.0.0.1:${app.api.port}/t/default/oauth/token`;
const onTls = (
  shown: Certified | undefined,
  more: Partial<Post> & { chain?: readonly Certified[] } = {},
): Promise<Reply> =>
  post({
    url: tokenUrl(),
    form: tokenForm(taskId, { client_id: s.agentId }),
    tls: connectionOf(app.server, shown, more.chain),
    ...more,
  });
const claimsOf = (reply: Reply): Record<string, unknown> =>
  decodeJwt(reply.body.access_token) as Record<string, unknown>;

describe("clients that are not ours, over real TLS", () => {
  const dispatcher = (shown: Certified): Agent =>
    new Agent({ connect: { ca: app.server.cert, key: shown.key, cert: shown.cert } });
  const fetchAs = (agent: Agent) => (url: string, init: object) =>
    undiciFetch(url, { ...init, dispatcher: agent }) as unknown as Promise<Response>;

  test.each([
    ["tls_client_auth", () => ({ shown: client, id: s.agentId as string })],
    ["self_signed_tls_client_auth", () => ({ shown: own, id: "lonely" })],
    ["self_signed_tls_client_auth by x5c", () => ({ shown: ownAsJwk, id: "lonely-jwk" })],
    ["spiffe_x509", () => ({ shown: svid, id: SVID })],
  ])("oauth4webapi gets, introspects and revokes a token by %s", async (_, of) => {
    const { shown, id } = of();
    const agent = dispatcher(shown);
    const options = { [oauth.allowInsecureRequests]: true, [oauth.customFetch]: fetchAs(agent) };
    const issuer = new URL(app.broker.issuerUrl("default"));
    const as = await oauth.processDiscoveryResponse(
      issuer,
      await oauth.discoveryRequest(issuer, { algorithm: "oauth2", ...options }),
    );
    expect(as).toMatchObject({
      tls_client_certificate_bound_access_tokens: true,
      mtls_endpoint_aliases: { token_endpoint: tokenUrl() },
      token_endpoint_auth_methods_supported: [
        "private_key_jwt",
        "spiffe_jwt",
        "tls_client_auth",
        "self_signed_tls_client_auth",
        "spiffe_x509",
      ],
    });
    const self: oauth.Client = { client_id: id, use_mtls_endpoint_aliases: true };
    const { grant_type: _grant, ...form } = tokenForm(taskId);
    const granted = await oauth.processClientCredentialsResponse(
      as,
      self,
      await oauth.clientCredentialsGrantRequest(as, self, oauth.TlsClientAuth(), form, options),
    );
    expect(granted.token_type).toBe("bearer");
    const { "x5t#S256": bound } = decodeJwt(granted.access_token)["cnf"] as { "x5t#S256": string };
    expect(bound).toBe(createHash("sha256").update(shown.der).digest("base64url"));
    await oauth.processRevocationResponse(
      await oauth.revocationRequest(as, self, oauth.TlsClientAuth(), granted.access_token, options),
    );
    const introspected = await oauth.processIntrospectionResponse(
      as,
      self,
      await oauth.introspectionRequest(as, self, oauth.TlsClientAuth(), granted.access_token, options),
    );
    expect(introspected).toEqual({ active: false });
    await agent.close();
  });

  test.each([
    ["tls_client_auth", () => ({ shown: client, id: s.agentId as string })],
    ["self_signed_tls_client_auth", () => ({ shown: own, id: "lonely" })],
  ])("openid-client gets and revokes a token by %s", async (_, of) => {
    const { shown, id } = of();
    const agent = dispatcher(shown);
    const config = await openid.discovery(
      new URL(app.broker.issuerUrl("default")),
      id,
      { use_mtls_endpoint_aliases: true },
      openid.TlsClientAuth(),
      { algorithm: "oauth2", execute: [openid.allowInsecureRequests], [openid.customFetch]: fetchAs(agent) },
    );
    const { grant_type: _grant, ...form } = tokenForm(taskId);
    const granted = await openid.clientCredentialsGrant(config, form);
    expect(decodeJwt(granted.access_token)["cnf"]).toEqual({ "x5t#S256": shown.thumbprint });
    await openid.tokenRevocation(config, granted.access_token);
    expect(await openid.tokenIntrospection(config, granted.access_token)).toEqual({ active: false });
    await agent.close();
  });

  test("oauth4webapi by private_key_jwt on a connection with any certificate gets a token that is bound to it", async () => {
    const stranger = certify({ cn: "made on the spot" });
    const agent = dispatcher(stranger);
    const options = { [oauth.allowInsecureRequests]: true, [oauth.customFetch]: fetchAs(agent) };
    const issuer = new URL(app.broker.issuerUrl("default"));
    const as = await oauth.processDiscoveryResponse(
      issuer,
      await oauth.discoveryRequest(issuer, { algorithm: "oauth2", ...options }),
    );
    const self: oauth.Client = { client_id: jwtClient.clientId, use_mtls_endpoint_aliases: true };
    const auth = oauth.PrivateKeyJwt({ key: jwtClient.privateKey, kid: jwtClient.kid });
    const { grant_type: _grant, ...form } = tokenForm(taskId);
    const request = async (more: object = {}): Promise<oauth.TokenEndpointResponse> =>
      oauth.processClientCredentialsResponse(
        as,
        self,
        await oauth.clientCredentialsGrantRequest(as, self, auth, form, { ...options, ...more }),
      );
    const bound = await request();
    expect(decodeJwt(bound.access_token)["cnf"]).toEqual({ "x5t#S256": stranger.thumbprint });

    // With both, the proof that says so in the request wins; `htu` is the URL that the client has called.
    const DPoP = oauth.DPoP(self, await oauth.generateKeyPair("ES256"));
    await request({ DPoP }).catch((error: unknown) => expect(oauth.isDPoPNonceError(error)).toBe(true));
    const proven = await request({ DPoP });
    expect(proven.token_type).toBe("dpop");
    expect(decodeJwt(proven.access_token)["cnf"]).toEqual({ jkt: await DPoP.calculateThumbprint() });
    await agent.close();
  });
});

describe("what a certificate binds", () => {
  test("a token shows its certificate when it is introspected, and the record says mtls", async () => {
    const reply = await onTls(client);
    expect([reply.status, reply.body.token_type]).toEqual([200, "Bearer"]);
    const auditor = await app.token({ sub: "auditor" });
    const { access_token: token } = reply.body;
    const introspected = await app.call(
      auditor,
      "POST",
      "/oauth/introspect",
      new URLSearchParams({ token }).toString(),
      {
        "content-type": "application/x-www-form-urlencoded",
      },
    );
    expect(introspected.body).toMatchObject({
      active: true,
      token_type: "Bearer",
      cnf: { "x5t#S256": client.thumbprint },
    });
    const record = await app.call(auditor, "GET", `/v1/credentials/${String(claimsOf(reply)["jti"])}`);
    expect(record.body).toMatchObject({ binding: "mtls", state: "active" });
  });

  test("so does a token of /v1/credentials, and one without a certificate is bound to nothing", async () => {
    const body = JSON.stringify({ task_id: taskId, target: "tickets-api", actions: ["read"], resources: ["tickets"] });
    const token = await app.token({ sub: s.agentSub });
    const mint = (shown: Certified | undefined): Promise<Reply> =>
      post({
        url: `${tlsOrigin(app)}/v1/credentials`,
        form: body,
        headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
        tls: connectionOf(app.server, shown),
      });
    const bound = await mint(client);
    expect(bound.status).toBe(201);
    expect(decodeJwt(bound.body.secret.access_token)["cnf"]).toEqual({ "x5t#S256": client.thumbprint });
    // The same token on another connection: what is remembered about its sender is not the certificate.
    expect(decodeJwt((await mint(own)).body.secret.access_token)["cnf"]).toEqual({ "x5t#S256": own.thumbprint });
    expect(decodeJwt((await mint(undefined)).body.secret.access_token)).not.toHaveProperty("cnf");
  });

  test("a password is no better held than the token that asked for it, whatever certificate was beside", () => {
    const caller = { binding: "bearer", confirmation: { "x5t#S256": "x" } } as unknown as Principal;
    expect(bindingOf(caller, "jwt")).toBe("mtls");
    expect(bindingOf(caller, "postgres")).toBe("bearer");
    expect(bindingOf({ ...caller, binding: "mtls" }, "postgres")).toBe("mtls");
    expect(bindingOf({ ...caller, confirmation: { jkt: "x" } }, "jwt")).toBe("dpop");
  });

  test("a token that is bound to a certificate is good on a connection with that certificate alone (RFC 8705 §3)", async () => {
    const idp = await workload("https://bound.test");
    await register(
      app,
      s,
      {
        kind: "key_set",
        issuer: idp.issuer,
        jwks: idp.jwks,
        algorithms: ["ES256"],
        single_use: false,
        binding: "mtls",
      },
      ["sub", "bound-1"],
    );
    const token = await idp.token(app.broker.issuerUrl("default"), {
      sub: "bound-1",
      cnf: { "x5t#S256": client.thumbprint },
    });
    const ask = (shown: Certified | undefined): Promise<Reply> =>
      post({
        url: tokenUrl(),
        form: tokenForm(taskId),
        headers: { authorization: `Bearer ${token}` },
        tls: connectionOf(app.server, shown),
        from: "127.0.1.200",
      });
    for (const shown of [own, undefined]) {
      const refused = await ask(shown);
      expect([refused.status, refused.body.reasons[0].code]).toEqual([401, "token_binding_unproven"]);
    }
    expect((await ask(client)).status).toBe(200);
    // And not because it was let in before.
    expect((await ask(own)).status).toBe(401);
  });
});

describe("a certificate comes in one way", () => {
  const proxied = (headers: Record<string, string | string[]>, more: Partial<Post> = {}): Promise<Reply> =>
    post({ url: plainTokenUrl(), form: tokenForm(taskId, { client_id: s.agentId }), headers, ...more });
  const between = authority({ cn: "between", by: corp });
  const below = certify({ by: between, san: [names.dns("agent-1.corp")] });

  test("by a trusted proxy, as RFC 9440 says, with the chain beside it", async () => {
    const reply = await proxied({ "client-cert": asHeader(client) });
    expect(claimsOf(reply)["cnf"]).toEqual({ "x5t#S256": client.thumbprint });
    const chained = await proxied({
      "client-cert": asHeader(below),
      "client-cert-chain": `${asHeader(own)} , ${asHeader(between)}`,
    });
    expect(claimsOf(chained)["cnf"]).toEqual({ "x5t#S256": below.thumbprint });
  });

  test("by TLS with the chain in the handshake", async () => {
    expect((await onTls(below, { chain: [between] })).status).toBe(200);
    expect((await onTls(below, { from: "127.0.1.201" })).body.reasons[0].code).toBe("certificate_untrusted");
  });

  test.each<[string, () => Record<string, string | string[]>, ...Partial<Post>[]]>([
    ["from a peer that is no trusted proxy", () => ({ "client-cert": asHeader(client) }), { from: "127.0.2.1" }],
    [
      "from a peer that says it was sent by one",
      () => ({ "client-cert": asHeader(client), "x-forwarded-for": "127.0.1.1", forwarded: "for=127.0.1.1" }),
      { from: "127.0.2.1" },
    ],
    ["in PEM", () => ({ "client-cert": encodeURIComponent(client.cert) })],
    ["in base64 of PEM", () => ({ "client-cert": `:${Buffer.from(client.cert).toString("base64")}:` })],
    ["without colons", () => ({ "client-cert": client.der.toString("base64") })],
    ["as a string", () => ({ "client-cert": `"${client.der.toString("base64")}"` })],
    [
      "in base64url",
      () => ({ "client-cert": `:${Buffer.concat([client.der, Buffer.alloc(3, 0xff)]).toString("base64url")}:` }),
    ],
    [
      "with another padding",
      () => {
        const base64 = client.der.toString("base64");
        return { "client-cert": `:${base64.endsWith("=") ? base64.replace(/=+$/, "") : `${base64}=`}:` };
      },
    ],
    ["with parameters", () => ({ "client-cert": `${asHeader(client)};a=1` })],
    [
      "with bytes behind it",
      () => ({ "client-cert": asHeader({ der: Buffer.concat([client.der, Buffer.from([0])]) }) }),
    ],
    ["cut short", () => ({ "client-cert": asHeader({ der: client.der.subarray(0, -1) }) })],
    ["that is empty", () => ({ "client-cert": "::" })],
    ["that is nothing", () => ({ "client-cert": "" })],
    ["that is not a certificate", () => ({ "client-cert": asHeader({ der: Buffer.from("hello") }) })],
    ["that is two in one", () => ({ "client-cert": `${asHeader(client)}, ${asHeader(own)}` })],
    ["twice", () => ({ "client-cert": [asHeader(client), asHeader(own)] })],
    [
      "that is larger than any",
      () => ({
        "client-cert": asHeader(
          certify({ by: corp, san: Array.from({ length: 600 }, (_, n) => names.dns(`${n}.agents.corp`)) }),
        ),
      }),
    ],
    ["with a chain and no leaf", () => ({ "client-cert-chain": asHeader(corp) })],
    ["with a chain that is none", () => ({ "client-cert": asHeader(client), "client-cert-chain": "hello" })],
    [
      "with an empty member in its chain",
      () => ({ "client-cert": asHeader(client), "client-cert-chain": `${asHeader(corp)},` }),
    ],
    [
      "with a long chain",
      () => ({ "client-cert": asHeader(client), "client-cert-chain": Array(6).fill(asHeader(corp)).join(",") }),
    ],
  ])("a header %s is refused, and is not taken for no certificate", async (_, headers, ...[more]) => {
    const reply = await proxied(headers(), { from: "127.0.1.20", ...more });
    expect([reply.status, reply.body.error]).toEqual([400, "invalid_request"]);
    expect(JSON.stringify(reply.body)).not.toMatch(/agent-1|corp|MII/);
  });

  test("a header on a TLS connection is refused, also from a trusted proxy, also without a certificate", async () => {
    for (const shown of [own, undefined])
      for (const headers of [{ "client-cert": asHeader(client) }, { "client-cert-chain": asHeader(corp) }]) {
        const reply = await onTls(shown, { headers, from: "127.0.1.21" });
        expect([reply.status, reply.body.error]).toEqual([400, "invalid_request"]);
      }
  });

  test("no session is resumed, so no certificate outlives its handshake (reliability D14)", async () => {
    const { port } = new URL(tlsOrigin(app));
    for (const maxVersion of ["TLSv1.2", "TLSv1.3"] as const) {
      let session: Buffer | undefined;
      for (let round = 0; round < 2; round += 1) {
        const options = { ...connectionOf(app.server, client), host: "127.0.0.1", port: Number(port), maxVersion };
        const socket: TLSSocket = connectTls(session === undefined ? options : { ...options, session });
        socket.on("session", (ticket: Buffer) => (session = ticket));
        await once(socket, "secureConnect");
        expect([socket.getProtocol(), socket.isSessionReused()]).toEqual([maxVersion, false]);
        socket.write("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        session ??= socket.getSession();
        await once(socket.resume(), "close");
      }
    }
  });

  test("nothing older than TLS 1.2 is spoken, and what is no TLS at all ends with its connection", async () => {
    const { port } = new URL(tlsOrigin(app));
    const old = connectTls({
      ...connectionOf(app.server),
      host: "127.0.0.1",
      port: Number(port),
      minVersion: "TLSv1",
      maxVersion: "TLSv1.1",
    });
    await expect(once(old, "secureConnect")).rejects.toThrow();
    const plain = connectPlain(Number(port), "127.0.0.1");
    const received: Buffer[] = [];
    plain.on("data", (chunk: Buffer) => received.push(chunk));
    plain.end("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    await once(plain, "close");
    expect(Buffer.concat(received).toString("latin1")).not.toContain("HTTP/1.1");
    expect((await onTls(client)).status).toBe(200);
  });
});

describe("a client is who its certificate proves, at the tenant that the path names", () => {
  interface Case {
    readonly shown?: Certified;
    readonly id?: string | null;
    readonly url?: () => string;
    readonly chain?: readonly Certified[];
    readonly form?: Readonly<Record<string, string>>;
    readonly reason: string;
    readonly status?: number;
  }
  const good = { by: corp, san: [names.dns("agent-1.corp")], usage: [digitalSignature], eku: [CLIENT_AUTH] };
  const cases: Record<string, Case> = {
    "no certificate": { reason: "certificate_missing" },
    "no client_id": { shown: client, id: null, reason: "client_id_missing" },
    neither: { id: null, reason: "certificate_missing" },
    "a client_id that nobody has": { shown: client, id: "nobody", reason: "client_unknown" },
    "an agent that is none": { shown: client, id: newId("agent"), reason: "client_unknown" },
    "the id of another agent": { shown: client, id: "other agent", reason: "client_id_mismatch" },
    "the name of the CA, for an agent": { shown: client, id: "corp-ca", reason: "client_id_mismatch" },
    "the name of a source of tokens": { shown: client, id: "reporter", reason: "client_unknown" },
    "the name of another client": { shown: own, id: "lonely-jwk", reason: "certificate_untrusted" },
    "a self-signed client's name, and a CA's certificate": {
      shown: client,
      id: "lonely",
      reason: "certificate_untrusted",
    },
    "the right names by another CA": {
      shown: certify({ ...good, by: authority({ cn: "corp" }) }),
      reason: "certificate_untrusted",
    },
    "another tenant's CA": { shown: certify({ ...good, by: foreign }), reason: "certificate_untrusted" },
    "another tenant's path": { shown: client, url: () => tokenUrl("other"), reason: "client_unknown" },
    "another tenant's path, and its CA's name": {
      shown: certify({ ...good, by: foreign }),
      id: "corp-ca",
      url: () => tokenUrl("other"),
      reason: "client_unknown",
    },
    "a tenant that is none": { shown: client, url: () => tokenUrl("nobody"), reason: "client_unknown" },
    "a path that names no tenant": {
      shown: client,
      url: () => `${tlsOrigin(app)}/oauth/token`,
      reason: "tenant_missing",
    },
    "its copy with the same key": {
      shown: certify({ cn: "lonely", ca: true, sameKeyAs: own }),
      id: "lonely",
      reason: "certificate_untrusted",
    },
    "a registered certificate that has expired": { shown: expiredOwn, id: "late", reason: "certificate_expired" },
    expired: { shown: certify({ ...good, from: -7200, to: -3600 }), reason: "certificate_expired" },
    "not yet valid": { shown: certify({ ...good, from: 3600, to: 7200 }), reason: "certificate_not_yet_valid" },
    "the CA itself (CVE-2025-49825)": { shown: corp, reason: "certificate_not_for_clients" },
    "an intermediate": {
      shown: authority({ ...good, ca: true, usage: [keyCertSign] }),
      reason: "certificate_not_for_clients",
    },
    "a leaf with keyCertSign": {
      shown: certify({ ...good, usage: [digitalSignature, keyCertSign] }),
      reason: "certificate_not_for_clients",
    },
    "for servers alone": { shown: certify({ ...good, eku: [SERVER_AUTH] }), reason: "certificate_not_for_clients" },
    "signed with SHA-1": { shown: certify({ ...good, hash: "sha1" }), reason: "certificate_weak" },
    "RSA of 1024 bits": { shown: certify({ ...good, key: "RSA-1024" }), reason: "certificate_weak" },
    "a name that no identity has": {
      shown: certify({ ...good, san: [names.dns("agent-9.corp")] }),
      reason: "identity_unknown",
    },
    "no alternative name": { shown: certify({ ...good, san: [] }), reason: "identity_unknown" },
    "the right name of the wrong kind": {
      shown: certify({ ...good, san: [names.uri("agent-1.corp")] }),
      reason: "identity_unknown",
    },
    "a name that begins alike": {
      shown: certify({ ...good, san: [names.dns("agent-1.corp.evil.test")] }),
      reason: "identity_unknown",
    },
    "the names of two agents": {
      shown: certify({ ...good, san: [names.dns("agent-1.corp"), names.dns("agent-2.corp")] }),
      reason: "identity_ambiguous",
    },
    "a wildcard": { shown: certify({ ...good, san: [names.dns("*.corp")] }), reason: "identity_unknown" },
    "a NUL in its name": {
      shown: certify({ ...good, san: [names.dns("agent-1.corp\0.evil.test")] }),
      reason: "certificate_malformed",
    },
    "an SVID of another workload": {
      shown: certify({ ...svidWanted, san: [names.uri("spiffe://prod.test/agent/2")] }),
      id: SVID,
      reason: "client_id_mismatch",
    },
    "an SVID of another trust domain by the same root": {
      shown: certify({ ...svidWanted, san: [names.uri("spiffe://evil.test/agent/1")] }),
      id: SVID,
      reason: "client_id_mismatch",
    },
    "an SVID by another root": {
      shown: certify({ ...svidWanted, by: corp }),
      id: SVID,
      reason: "certificate_untrusted",
    },
    "an SVID with two ids": {
      shown: certify({ ...svidWanted, san: [names.uri(SVID), names.uri("spiffe://prod.test/agent/2")] }),
      id: SVID,
      reason: "certificate_not_svid",
    },
    "a certificate without an id": {
      shown: certify({ ...svidWanted, san: [names.dns("x")] }),
      id: SVID,
      reason: "certificate_not_svid",
    },
    "an SVID without key usage": {
      shown: certify({ by: spire, san: [names.uri(SVID)] }),
      id: SVID,
      reason: "certificate_not_svid",
    },
    "a signing certificate with an id": {
      shown: authority({ by: spire, san: [names.uri(SVID)] }),
      id: SVID,
      reason: "certificate_not_for_clients",
    },
    "a trust domain as client_id": { shown: svid, id: "spiffe://prod.test", reason: "client_unknown" },
    "a trust domain that is not trusted": { shown: svid, id: "spiffe://other.test/agent/1", reason: "client_unknown" },
    "a SPIFFE ID that is not canonical": {
      shown: svid,
      id: "spiffe://prod.test/agent/../agent/1",
      reason: "client_unknown",
    },
  };
  const named = Object.entries(cases).map(([name, one], index) => ({ name, one, index }));

  test.each(named)("$name", async ({ one, index }) => {
    const { id = s.agentId, shown, chain = [], reason } = one;
    const clientId = id === "other agent" ? otherAgent : id;
    const form = tokenForm(taskId, { ...(clientId === null ? {} : { client_id: clientId }), ...one.form });
    const url = one.url?.() ?? tokenUrl();
    const replies = [
      await post({ url, form, tls: connectionOf(app.server, shown, chain), from: `127.0.1.${100 + index}` }),
      await post({
        url: url.replace(tlsOrigin(app), `http://127.0.0.1:${app.api.port}`),
        form,
        headers: shown === undefined ? {} : { "client-cert": asHeader(shown) },
        from: `127.0.1.${100 + index}`,
      }),
    ];
    for (const { status, body } of replies) {
      expect([status, body.error, body.reasons[0].code]).toEqual([401, "invalid_client", reason]);
      expect(JSON.stringify(body.error_description ?? "")).not.toMatch(/agent-1|corp|evil|MII/);
    }
  });

  test("every refusal is in the audit of the tenant, with its reason", async () => {
    const auditor = await app.token({ sub: "auditor" });
    const seen = new Set<string>();
    let next: string | undefined = "/v1/audit?type=authentication.refused&page_size=100";
    while (next !== undefined) {
      const page = await app.call(auditor, "GET", next);
      expect(page.status).toBe(200);
      for (const { data } of page.body.items) seen.add(data.reason);
      const token = page.body.next_page_token as string | undefined;
      next = token ? `/v1/audit?type=authentication.refused&page_size=100&page_token=${token}` : undefined;
    }
    // Where the tenant is not known, the refusal is the system tenant's.
    const reasons = Object.values(cases).map(({ reason }) => reason);
    for (const reason of reasons) if (reason !== "tenant_missing") expect(seen).toContain(reason);
  });

  test("a tool is known by its certificate and the name of its CA", async () => {
    const gateway = certify({ by: corp, san: [names.dns("gateway.corp")] });
    const { body } = await onTls(client);
    const ask = (id: string, from: string): Promise<Reply> =>
      post({
        url: `${tlsOrigin(app)}/t/default/oauth/introspect`,
        form: { token: body.access_token, client_id: id },
        tls: connectionOf(app.server, gateway),
        from,
      });
    expect((await ask("corp-ca", "127.0.1.90")).body).toMatchObject({
      active: true,
      cnf: { "x5t#S256": client.thumbprint },
    });
    expect((await ask(s.agentId, "127.0.1.90")).body.reasons[0].code).toBe("client_id_mismatch");
  });

  test("a certificate with several names is for whom one of them names", async () => {
    const both = certify({ ...good, san: [names.dns("a.corp"), names.dns("agent-1.corp"), names.ip(10, 0, 0, 7)] });
    expect((await onTls(both)).status).toBe(200);
  });

  test("an identity is anchored on one name of a certificate, in the spelling that certificates are read in", async () => {
    const admin = await app.token({ sub: "admin" });
    const bind = async (claim: string, value: string): Promise<number> => {
      const body = { trust_source_id: sourceId, agent_id: otherAgent, anchor_claim: claim, anchor_value: value };
      return (await app.call(admin, "POST", "/v1/identities", body)).status;
    };
    const wrong: readonly (readonly [string, string])[] = [
      ["sub", "agent-3"],
      ["issuer_dn", "CN=corp"],
      ["san_dns", "Agent-3.corp"],
      ["san_dns", "*.corp"],
      ["san_ip", "10.0.0.07"],
      ["san_ip", "0:0:0:0:0:0:0:1"],
      ["subject_dn", "agent-3"],
      ["subject_dn", "CN=agent-3, O=corp"],
      ["san_uri", "https://a b"],
    ];
    for (const [claim, value] of wrong) expect([claim, value, await bind(claim, value)]).toEqual([claim, value, 400]);
    for (const [claim, value] of [
      ["subject_dn", "CN=agent-3,O=corp"],
      ["san_ip", "::1"],
      ["san_uri", "https://agents.corp/3"],
      ["san_email", "agent-3@corp.test"],
    ] as const)
      expect([claim, await bind(claim, value)]).toEqual([claim, 201]);
    const byDn = certify({ by: corp, subject: distinguished(["2.5.4.10", "corp"], ["2.5.4.3", "agent-3"]) });
    expect((await onTls(byDn, { form: tokenForm(taskId, { client_id: otherAgent }) })).body.error).not.toBe(
      "invalid_client",
    );
  });

  test("two ways to authenticate in one request are refused", async () => {
    const bearer = await app.token({ sub: s.agentSub });
    const reply = await onTls(client, { headers: { authorization: `Bearer ${bearer}` }, from: "127.0.1.91" });
    expect([reply.status, reply.body.error]).toEqual([400, "invalid_request"]);
    const half = await onTls(client, {
      form: tokenForm(taskId, { client_id: s.agentId, client_assertion: "x.y.z" }),
      from: "127.0.1.91",
    });
    expect([half.status, half.body.error]).toEqual([400, "invalid_request"]);
  });

  test("a token of one tenant is nothing at another one's path", async () => {
    const bearer = await app.token({ sub: s.agentSub });
    const reply = await post({
      url: tokenUrl("other"),
      form: tokenForm(taskId),
      headers: { authorization: `Bearer ${bearer}` },
      tls: connectionOf(app.server),
      from: "127.0.1.92",
    });
    expect([reply.status, reply.body.reasons[0].code]).toEqual([401, "token_audience_mismatch"]);
  });

  test("a weak key binds nothing, whoever vouches for its holder", async () => {
    const bearer = await app.token({ sub: s.agentSub });
    const reply = await onTls(certify({ key: "RSA-1024" }), {
      form: tokenForm(taskId),
      headers: { authorization: `Bearer ${bearer}` },
      from: "127.0.1.93",
    });
    expect([reply.status, reply.body.reasons[0].code]).toEqual([401, "certificate_weak"]);
  });

  test("a trust source that is disabled, or has other anchors, stops working with the commit that says so", async () => {
    const admin = await app.token({ sub: "admin" });
    const path = `/v1/trust-sources/${sourceId}`;
    const change = async (certificates: string[]): Promise<void> => {
      const { headers } = await app.call(admin, "GET", path);
      const done = await app.call(admin, "PATCH", path, { certificates }, { "if-match": headers.get("etag") ?? "" });
      expect(done.status).toBe(200);
    };
    const ask = async (): Promise<string> => {
      const { status, body } = await onTls(client, { from: "127.0.1.94" });
      return status === 200 ? "ok" : body.reasons[0].code;
    };
    expect(await ask()).toBe("ok");
    await change([foreign.cert]);
    expect(await ask()).toBe("certificate_untrusted");
    await change([foreign.cert, corp.cert]);
    expect(await ask()).toBe("ok");
    for (const [state, answer] of [
      ["disabled", "client_unknown"],
      ["active", "ok"],
    ] as const) {
      expect((await app.call(admin, "POST", `${path}/state`, { state })).status).toBe(200);
      expect(await ask()).toBe(answer);
    }
  });
});
