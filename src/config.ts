import { readFileSync } from "node:fs";
import { BlockList } from "node:net";
import { resolve } from "node:path";
import { createSecureContext } from "node:tls";
import { z } from "zod";
import { trustNetwork } from "./lib/networks.ts";
import { Secret } from "./lib/secret.ts";

const levels = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;

/** A whole number in decimal digits, and nothing that only looks like one (`1e3`, `0x10`, ` 5`). */
function number(min: number, max: number) {
  return z
    .string()
    .regex(/^(0|[1-9]\d{0,9})$/, "must be a whole number")
    .transform(Number)
    .pipe(z.number().min(min, `must be at least ${min}`).max(max, `must be at most ${max}`));
}

function whole(min: number, max: number, byDefault: number) {
  return number(min, max).default(byDefault);
}

const onOrOff = z
  .enum(["true", "false"])
  .default("false")
  .transform((text) => text === "true");

function secretUrl(...schemes: string[]) {
  return z
    .string()
    .refine((text) => URL.canParse(text) && schemes.includes(new URL(text).protocol), {
      error: `must be a URL that starts with ${schemes.map((scheme) => `${scheme}//`).join(" or ")}`,
    })
    .transform((text) => new Secret(text))
    .optional();
}

const kek = z
  .string()
  .refine((text) => /^[A-Za-z0-9_-]{43}$/.test(text) && Buffer.from(text, "base64url").toString("base64url") === text, {
    error: "must be 32 random bytes in base64url: openssl rand 32 | basenc --base64url -w0 | tr -d =",
  })
  .transform((text) => new Secret(text))
  .optional();

const publicUrl = z
  .string()
  .superRefine((text, context) => {
    if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) {
      context.addIssue("must be an absolute http or https URL");
    } else if (text !== plainUrl(new URL(text))) {
      // It is the beginning of every issuer string, and those are compared byte by byte.
      context.addIssue(`must be written as ${plainUrl(new URL(text))}`);
    } else if (!isLoopback(text) && new URL(text).protocol !== "https:") {
      context.addIssue("must be https, unless it is a loopback address");
    }
  })
  .optional();

const port = whole(0, 65_535, 8377);

const pem = z
  .string()
  .transform((text) => new Secret(text))
  .optional();

const networks = z
  .string()
  .transform((text) => text.split(",").map((part) => part.trim()))
  .refine((parts) => parts.every(isNetwork), "must be addresses or networks like 10.0.0.0/8, with commas between them")
  .default([]);

const variables = z.strictObject({
  DATABASE_URL: secretUrl("postgres:", "postgresql:"),
  DATABASE_OWNER_URL: secretUrl("postgres:", "postgresql:"),
  REDIS_URL: secretUrl("redis:", "rediss:"),
  MAYFLY_QUEUE: z.enum(["auto", "none"]).default("auto"),
  MAYFLY_KEK: kek,
  MAYFLY_PUBLIC_URL: publicUrl,
  MAYFLY_HOST: z.string().default("127.0.0.1"),
  MAYFLY_PORT: port,
  MAYFLY_DATA_DIR: z.string().default(".mayfly"),
  MAYFLY_LOG_LEVEL: z.enum(levels).default("info"),
  MAYFLY_MAX_TTL_SECONDS: whole(1, 86_400, 3600),
  MAYFLY_DEFAULT_TTL_SECONDS: whole(1, 86_400, 300),
  MAYFLY_MAX_UNREVOCABLE_TTL_SECONDS: whole(1, 86_400, 900),
  MAYFLY_MINT_TIMEOUT_SECONDS: whole(1, 120, 10),
  MAYFLY_SWEEP_SECONDS: whole(1, 60, 5),
  MAYFLY_RECONCILE_SECONDS: whole(10, 86_400, 600),
  MAYFLY_CANARY_SECONDS: whole(60, 604_800, 3600),
  MAYFLY_KEY_ROTATION_DAYS: whole(1, 365, 30),
  MAYFLY_ALLOW_LOOPBACK_HTTP: onOrOff,
  MAYFLY_TLS_PORT: number(0, 65_535).optional(),
  MAYFLY_TLS_CERT: pem,
  MAYFLY_TLS_KEY: pem,
  MAYFLY_TLS_PUBLIC_URL: publicUrl,
  MAYFLY_CLIENT_CERT_PROXIES: networks,
  MAYFLY_DRAFT_OAUTH_SPIFFE_CLIENT_AUTH_02: onOrOff,
});

type Name = keyof typeof variables.shape;
type Values = z.output<typeof variables>;

/** The variables whose value may come from the file that `<name>_FILE` names. Every secret is one. */
const fromFile = [
  "DATABASE_URL",
  "DATABASE_OWNER_URL",
  "REDIS_URL",
  "MAYFLY_KEK",
  "MAYFLY_TLS_CERT",
  "MAYFLY_TLS_KEY",
] as const satisfies Name[];

/** Every variable that is read, in the order of `.env.example`. */
export const configVariables: readonly string[] = Object.keys(variables.shape).flatMap((name) =>
  (fromFile as readonly string[]).includes(name) ? [name, `${name}_FILE`] : [name],
);

/** Rules over several variables. Each is tried when the variables it needs are good, whatever else is wrong. */
const rules: readonly { on: Name; with: readonly Name[]; says: string; holds(values: Values): boolean }[] = [
  {
    on: "MAYFLY_KEK",
    with: ["DATABASE_URL"],
    says: "is required when DATABASE_URL is set",
    holds: (values) => values.DATABASE_URL === undefined || values.MAYFLY_KEK !== undefined,
  },
  {
    on: "DATABASE_OWNER_URL",
    with: ["DATABASE_URL"],
    says: "must name another role than DATABASE_URL: the owner of the tables is not bound by row-level security",
    holds: ({ DATABASE_URL: runtime, DATABASE_OWNER_URL: owner }) =>
      runtime === undefined || owner === undefined || userOf(runtime) !== userOf(owner),
  },
  {
    on: "MAYFLY_DEFAULT_TTL_SECONDS",
    with: ["MAYFLY_MAX_TTL_SECONDS"],
    says: "must not be more than MAYFLY_MAX_TTL_SECONDS",
    holds: (values) => values.MAYFLY_DEFAULT_TTL_SECONDS <= values.MAYFLY_MAX_TTL_SECONDS,
  },
  {
    on: "MAYFLY_ALLOW_LOOPBACK_HTTP",
    with: ["MAYFLY_PUBLIC_URL"],
    says: "may only be true while MAYFLY_PUBLIC_URL is a loopback address",
    holds: (values) =>
      !values.MAYFLY_ALLOW_LOOPBACK_HTTP ||
      values.MAYFLY_PUBLIC_URL === undefined ||
      isLoopback(values.MAYFLY_PUBLIC_URL),
  },
  {
    on: "MAYFLY_TLS_PORT",
    with: ["MAYFLY_TLS_CERT", "MAYFLY_TLS_KEY", "MAYFLY_TLS_PUBLIC_URL"],
    says: "must be set together with MAYFLY_TLS_CERT and MAYFLY_TLS_KEY, and MAYFLY_TLS_PUBLIC_URL only with them",
    holds: ({ MAYFLY_TLS_PORT: tlsPort, MAYFLY_TLS_CERT: cert, MAYFLY_TLS_KEY: key, MAYFLY_TLS_PUBLIC_URL: url }) =>
      tlsPort === undefined
        ? cert === undefined && key === undefined && url === undefined
        : cert !== undefined && key !== undefined,
  },
  {
    on: "MAYFLY_TLS_KEY",
    with: ["MAYFLY_TLS_CERT"],
    says: "must be the PEM private key of the first certificate of MAYFLY_TLS_CERT",
    holds: ({ MAYFLY_TLS_CERT: cert, MAYFLY_TLS_KEY: key }) =>
      cert === undefined || key === undefined || fit(cert, key),
  },
  {
    on: "MAYFLY_TLS_PUBLIC_URL",
    with: [],
    says: "must be https",
    holds: ({ MAYFLY_TLS_PUBLIC_URL: url }) => url === undefined || url.startsWith("https:"),
  },
];

const schema = rules.reduce<z.ZodType<Values>>(
  (checked, rule) =>
    checked.refine((values) => rule.holds(values), {
      path: [rule.on],
      error: rule.says,
      when: ({ issues }) => !issues.some(({ path }) => [rule.on, ...rule.with].includes(path?.[0] as Name)),
    }),
  variables,
);

/** What an operator has configured: one value per variable of `.env.example`, which says what each means. */
export interface Config {
  /** Of the runtime role. Absent: see `embedded`. */
  readonly databaseUrl: Secret | undefined;
  /** Of the owner, for `migrate` alone. */
  readonly databaseOwnerUrl: Secret | undefined;
  /** Neither database URL is set, so Mayfly runs a PostgreSQL of its own in `dataDir`. */
  readonly embedded: boolean;
  readonly redisUrl: Secret | undefined;
  /** `auto`: Redis if `redisUrl` is set, else Postgres. `none`: the sweep alone does the work. */
  readonly queue: "auto" | "none";
  /** 32 bytes in base64url. Absent only without `databaseUrl`; `src/keys/kek.ts` then keeps one in `dataDir`. */
  readonly kek: Secret | undefined;
  /** Without a slash at its end. Absent when `port` is 0 and nothing was set: then it is the address listened on. */
  readonly publicUrl: string | undefined;
  readonly host: string;
  readonly port: number;
  /** Absolute. */
  readonly dataDir: string;
  readonly logLevel: (typeof levels)[number];
  readonly maxTtlSeconds: number;
  readonly defaultTtlSeconds: number;
  readonly maxUnrevocableTtlSeconds: number;
  readonly mintTimeoutSeconds: number;
  readonly sweepSeconds: number;
  readonly reconcileSeconds: number;
  readonly canarySeconds: number;
  readonly keyRotationDays: number;
  readonly allowLoopbackHttp: boolean;
  /** The listener that asks clients for a certificate. Absent: there is none. */
  readonly tls: TlsListener | undefined;
  /** Addresses and networks of proxies that end TLS and set `Client-Cert` (RFC 9440). Empty: nobody may. */
  readonly clientCertProxies: readonly string[];
  /** draft-ietf-oauth-spiffe-client-auth-02 is offered. */
  readonly draftSpiffeClientAuth: boolean;
}

/** A TLS listener beside the plain one. */
export interface TlsListener {
  readonly port: number;
  /** PEM: its certificate, and the intermediates after it. */
  readonly cert: Secret;
  readonly key: Secret;
  /** Without a slash at its end. Absent when `port` is 0 and nothing was set: then it is the address listened on. */
  readonly publicUrl: string | undefined;
}

/**
 * Reads the configuration. Throws one error that lists every problem, each with the name of its variable and without
 * its value, which may be a secret.
 */
export function loadConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const { values: texts, problems } = readVariables(env);
  const parsed = schema.safeParse(texts);
  for (const issue of parsed.error?.issues ?? []) {
    const name = issue.path.join(".");
    // A name that nothing reads is most likely a misspelt one, and a limit that is not in force.
    if (issue.code === "unrecognized_keys")
      for (const key of issue.keys) problems.set(key, "is not a variable of Mayfly");
    // The first problem of a variable says it all: one that could not be read is not "required" as well.
    else if (!problems.has(name)) problems.set(name, issue.message);
  }
  if (problems.size > 0 || !parsed.success) {
    const lines = [...problems].map(([name, problem]) => `  ${name} ${problem}`);
    throw new Error(`the configuration has problems:\n${lines.join("\n")}`);
  }
  const { data } = parsed;
  return Object.freeze({
    databaseUrl: data.DATABASE_URL,
    databaseOwnerUrl: data.DATABASE_OWNER_URL,
    embedded: data.DATABASE_URL === undefined && data.DATABASE_OWNER_URL === undefined,
    redisUrl: data.REDIS_URL,
    queue: data.MAYFLY_QUEUE,
    kek: data.MAYFLY_KEK,
    publicUrl: data.MAYFLY_PUBLIC_URL ?? (data.MAYFLY_PORT === 0 ? undefined : `http://127.0.0.1:${data.MAYFLY_PORT}`),
    host: data.MAYFLY_HOST,
    port: data.MAYFLY_PORT,
    dataDir: resolve(data.MAYFLY_DATA_DIR),
    logLevel: data.MAYFLY_LOG_LEVEL,
    maxTtlSeconds: data.MAYFLY_MAX_TTL_SECONDS,
    defaultTtlSeconds: data.MAYFLY_DEFAULT_TTL_SECONDS,
    maxUnrevocableTtlSeconds: data.MAYFLY_MAX_UNREVOCABLE_TTL_SECONDS,
    mintTimeoutSeconds: data.MAYFLY_MINT_TIMEOUT_SECONDS,
    sweepSeconds: data.MAYFLY_SWEEP_SECONDS,
    reconcileSeconds: data.MAYFLY_RECONCILE_SECONDS,
    canarySeconds: data.MAYFLY_CANARY_SECONDS,
    keyRotationDays: data.MAYFLY_KEY_ROTATION_DAYS,
    allowLoopbackHttp: data.MAYFLY_ALLOW_LOOPBACK_HTTP,
    tls: tlsListener(data),
    clientCertProxies: data.MAYFLY_CLIENT_CERT_PROXIES,
    draftSpiffeClientAuth: data.MAYFLY_DRAFT_OAUTH_SPIFFE_CLIENT_AUTH_02,
  });
}

function tlsListener(data: Values): TlsListener | undefined {
  const { MAYFLY_TLS_PORT: tlsPort, MAYFLY_TLS_CERT: cert, MAYFLY_TLS_KEY: key } = data;
  if (tlsPort === undefined || cert === undefined || key === undefined) return undefined;
  const byDefault = tlsPort === 0 ? undefined : `https://127.0.0.1:${tlsPort}`;
  return { port: tlsPort, cert, key, publicUrl: data.MAYFLY_TLS_PUBLIC_URL ?? byDefault };
}

function readVariables(env: NodeJS.ProcessEnv): { values: Record<string, string>; problems: Map<string, string> } {
  const values: Record<string, string> = {};
  const problems = new Map<string, string>();
  for (const [name, value] of Object.entries(env)) {
    if (value === undefined || !isOurs(name)) continue;
    if (value === "") problems.set(name, "is empty: give it a value or do not set it");
    else values[name] = value;
  }
  if (values["MAYFLY_PORT"]?.startsWith("tcp://")) {
    problems.set(
      "MAYFLY_PORT",
      "was set by Kubernetes for the service mayfly: set enableServiceLinks: false on the pod",
    );
  }
  for (const name of fromFile) {
    const path = values[`${name}_FILE`];
    delete values[`${name}_FILE`];
    if (path === undefined) continue;
    if (values[name] !== undefined) problems.set(name, `and ${name}_FILE are both set: choose one`);
    try {
      const value = readFileSync(path, "utf8").replace(/\r?\n$/, "");
      if (value === "") problems.set(name, `is empty in the file that ${name}_FILE names`);
      else values[name] = value;
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : "unreadable";
      problems.set(name, `cannot be read from the file that ${name}_FILE names (${code})`);
    }
  }
  return { values, problems };
}

// Kubernetes describes a service called mayfly in variables that begin as ours do; those mean nothing to us.
function isOurs(name: string): boolean {
  if (configVariables.includes(name)) return true;
  return name.startsWith("MAYFLY_") && !/^MAYFLY_(SERVICE_|PORT_\d)/.test(name);
}

function plainUrl(url: URL): string {
  return url.origin + url.pathname.replace(/\/+$/, "");
}

/** Whether a URL points at this machine: 127.0.0.0/8, ::1 or localhost. */
function isLoopback(url: string): boolean {
  return /^(127\.\d+\.\d+\.\d+|\[::1\]|localhost)$/.test(new URL(url).hostname);
}

function userOf(url: Secret): string {
  return decodeURIComponent(new URL(url.reveal()).username);
}

function isNetwork(text: string): boolean {
  try {
    trustNetwork(new BlockList(), text);
    return true;
  } catch {
    return false;
  }
}

function fit(cert: Secret, key: Secret): boolean {
  try {
    createSecureContext({ cert: cert.reveal(), key: key.reveal() });
    return true;
  } catch {
    return false;
  }
}
