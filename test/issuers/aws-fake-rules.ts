import { createHash, createHmac } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";

/** A policy document, as far as the fake knows the language. */
export interface PolicyDocument {
  readonly Version?: string;
  readonly Statement: Statement | readonly Statement[];
}

interface Statement {
  readonly Effect: "Allow" | "Deny";
  readonly Principal?: { readonly AWS: string | readonly string[] };
  readonly Action: string | readonly string[];
  readonly Resource?: string | readonly string[];
  readonly Condition?: Readonly<Record<string, Readonly<Record<string, string | readonly string[]>>>>;
}

interface Asked {
  readonly action: string;
  readonly resource: string;
  /** For trust policies, whose statements name a principal and no resource. */
  readonly principal?: string;
  readonly context?: Readonly<Record<string, string | undefined>>;
}

/** What policies say together: an explicit deny wins, nothing said is undefined. */
export function verdict(documents: readonly PolicyDocument[], asked: Asked): "Allow" | "Deny" | undefined {
  const said = documents
    .flatMap(({ Statement }) => Statement)
    .filter((one) => applies(one, asked))
    .map(({ Effect }) => Effect);
  return said.includes("Deny") ? "Deny" : said[0];
}

/** Reads a document as IAM does. Throws when it is none. */
export function readDocument(text: string): PolicyDocument {
  const document = JSON.parse(text) as PolicyDocument;
  for (const one of [document.Statement].flat<readonly (Statement | readonly Statement[])[]>()) {
    if (one.Effect !== "Allow" && one.Effect !== "Deny") throw new Error("Effect");
    if (typeof one.Action !== "string" && !Array.isArray(one.Action)) throw new Error("Action");
    for (const operator of Object.keys(one.Condition ?? {}))
      if (operator !== "StringEquals" && operator !== "StringLike") throw new Error("Condition");
  }
  return document;
}

function applies(statement: Statement, { action, resource, principal, context = {} }: Asked): boolean {
  const { Action, Resource, Principal, Condition = {} } = statement;
  if (!some(Action, (pattern) => like(pattern.toLowerCase(), action.toLowerCase()))) return false;
  if (
    Principal === undefined
      ? !some(Resource ?? [], (one) => like(one, resource))
      : !some(Principal.AWS, (one) => one === principal)
  )
    return false;
  return Object.entries(Condition).every(([operator, keys]) =>
    Object.entries(keys).every(([key, wanted]) => {
      const actual = context[key];
      return (
        actual !== undefined && some(wanted, (one) => (operator === "StringLike" ? like(one, actual) : one === actual))
      );
    }),
  );
}

function some(texts: string | readonly string[], matches: (text: string) => boolean): boolean {
  return [texts].flat().some((text) => matches(text));
}

function like(pattern: string, text: string): boolean {
  const escaped = pattern
    .replaceAll(/[.+^${}()|[\]\\]/g, "\\$&")
    .replaceAll("*", ".*")
    .replaceAll("?", ".");
  return new RegExp(`^${escaped}$`, "s").test(text);
}

/** A request as it came over the wire. */
interface Signed {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** What an Authorization header claims. Undefined when it is not of Signature Version 4. */
export interface Claim {
  readonly keyId: string;
  readonly day: string;
  readonly region: string;
  readonly service: string;
  readonly signed: readonly string[];
  readonly signature: string;
}

export function claimOf(headers: IncomingHttpHeaders): Claim | undefined {
  const found =
    /^AWS4-HMAC-SHA256 Credential=([A-Z0-9]+)\/(\d{8})\/([a-z0-9-]+)\/([a-z0-9]+)\/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})$/.exec(
      headers.authorization ?? "",
    );
  if (found === null) return undefined;
  const [, keyId = "", day = "", region = "", service = "", signed = "", signature = ""] = found;
  return { keyId, day, region, service, signed: signed.split(";"), signature };
}

/** Signature Version 4, from its public description: whether this secret made the signature of this very request. */
export function signatureHolds(claim: Claim, { method, url, headers, body }: Signed, secret: string): boolean {
  const { day, region, service, signed } = claim;
  const when = String(headers["x-amz-date"]);
  const wanted = [
    "host",
    "x-amz-date",
    ...(headers["x-amz-security-token"] === undefined ? [] : ["x-amz-security-token"]),
  ];
  if (!wanted.every((name) => signed.includes(name)) || !when.startsWith(day)) return false;
  const { pathname, searchParams } = new URL(url, "http://of.no.matter");
  const encode = (text: string): string =>
    encodeURIComponent(text).replaceAll(/[!'()*]/g, (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`);
  const path = service === "s3" ? pathname : encode(pathname).replaceAll("%2F", "/");
  const query = [...searchParams].map(([name, value]) => `${encode(name)}=${encode(value)}`).sort();
  const stated = headers["x-amz-content-sha256"];
  const payload = service === "s3" && stated !== undefined ? String(stated) : sha256(body);
  const canonical = [
    method,
    path,
    query.join("&"),
    ...signed.map(
      (name) =>
        `${name}:${String(headers[name] ?? "")
          .trim()
          .replaceAll(/\s+/g, " ")}`,
    ),
    "",
    signed.join(";"),
    payload,
  ].join("\n");
  const scope = `${day}/${region}/${service}/aws4_request`;
  const key = [day, region, service, "aws4_request"].reduce<Buffer>(hmac, Buffer.from(`AWS4${secret}`));
  return hmac(key, ["AWS4-HMAC-SHA256", when, scope, sha256(canonical)].join("\n")).toString("hex") === claim.signature;
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac("sha256", key).update(text).digest();
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
