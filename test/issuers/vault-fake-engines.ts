import { generateKeyPairSync, randomBytes } from "node:crypto";

/** What an engine makes: with `revoke`, under a lease of `ttl` seconds. */
interface Made {
  readonly ttl: number;
  readonly data: Readonly<Record<string, unknown>>;
  readonly revoke?: () => void;
}

/** The engines of the fake, and what they made. */
export interface Engines {
  /** Users of the database, by name, with their password. */
  readonly users: Map<string, string>;
  /** The error that the engine answers, or undefined for a path that no engine has. */
  generate(path: string, data: Readonly<Record<string, unknown>>): Made | string | undefined;
}

/**
 * `database` (roles `reporting`, `other`, `short` of 30 s, `odd` with values of all sorts), `rabbitmq`, `pki` and `ssh` without
 * leases (roles `web`; `long`, which does not listen to `ttl`, nor does `leased`, but for its lease; `strange`, whose end cannot be read), `aws/sts`.
 */
export function engines(now: () => number): Engines {
  const users = new Map<string, string>();
  const user = (ttl: number, more: Readonly<Record<string, unknown>> = {}): Made => {
    const [username, password] = [`v-${randomBytes(8).toString("hex")}`, randomBytes(16).toString("base64url")];
    users.set(username, password);
    return { ttl, data: { username, password, ...more }, revoke: () => void users.delete(username) };
  };
  const seconds = ({ ttl }: Readonly<Record<string, unknown>>): number =>
    typeof ttl === "string" ? Number.parseInt(ttl, 10) : 0;
  return {
    users,
    generate(path, data) {
      switch (path) {
        case "database/creds/reporting":
        case "database/creds/other":
        case "rabbitmq/creds/queue":
          return user(3600);
        case "database/creds/short":
          return user(30);
        case "database/creds/odd":
          return user(3600, { port: 5432, hosts: ["a", "b"], note: null, ok: true });
        case "kubernetes/creds/fresh":
          if (data["kubernetes_namespace"] === undefined) return "'kubernetes_namespace' is required";
          return user(seconds(data));
        case "aws/sts/deploy":
          return { ...user(seconds(data)), revoke: () => undefined };
        case "pki/issue/web":
        case "pki/issue/long":
        case "pki/issue/leased":
          return {
            ttl: path.endsWith("leased") ? seconds(data) : 0,
            ...(path.endsWith("leased") ? { revoke: () => undefined } : {}),
            data: {
              certificate: `-----BEGIN CERTIFICATE-----\n${randomBytes(30).toString("base64")}`,
              private_key: `-----BEGIN PRIVATE KEY-----\n${randomBytes(30).toString("base64")}`,
              ca_chain: ["-----BEGIN CERTIFICATE-----"],
              common_name: data["common_name"],
              expiration: Math.floor(now() / 1000) + (path.endsWith("web") ? seconds(data) : 86_400),
            },
          };
        case "ssh/sign/web":
        case "ssh/sign/long":
          return {
            ttl: 0,
            data: { signed_key: sshCertificate(now() + (path.endsWith("long") ? 8.64e7 : seconds(data) * 1000)) },
          };
        case "ssh/sign/strange":
          return { ttl: 0, data: { signed_key: "ssh-dss-cert-v01@openssh.com AAAA" } };
        case "ssh/sign/cut":
          return { ttl: 0, data: { signed_key: "ssh-ed25519-cert-v01@openssh.com AAAA" } };
        case "secret/creds/static":
          return { ttl: 0, data: { password: "always the same" } };
        default:
          return undefined;
      }
    },
  };
}

/** An OpenSSH user certificate as `ssh-keygen -L` reads it, but for its signature. */
function sshCertificate(endMs: number): string {
  const algorithm = "ssh-ed25519-cert-v01@openssh.com";
  const { x = "" } = generateKeyPairSync("ed25519").publicKey.export({ format: "jwk" });
  const text = (value: string | Buffer): Buffer => {
    const bytes = Buffer.from(value);
    const size = Buffer.alloc(4);
    size.writeUInt32BE(bytes.length);
    return Buffer.concat([size, bytes]);
  };
  const number = (value: number): Buffer => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(BigInt(Math.floor(value)));
    return bytes;
  };
  const body = Buffer.concat([
    text(algorithm),
    text(randomBytes(32)),
    text(Buffer.from(x, "base64url")),
    number(7),
    Buffer.from([0, 0, 0, 1]),
    text("key id"),
    text(text("ubuntu")),
    number(0),
    number(endMs / 1000),
    text(""),
    text(""),
    text(""),
    text("key of the authority"),
    text("signature"),
  ]);
  return `${algorithm} ${body.toString("base64")} comment\n`;
}
