import type { Db } from "../db/database.ts";
import { notFound } from "../lib/errors.ts";
import type { Id } from "../lib/ids.ts";
import { judgeTime } from "./certificate-path.ts";
import { fetchKeys, isRemote } from "./fetch-keys.ts";
import { importSourceKeys } from "./import-bundle.ts";
import { KeySetError } from "./key-set.ts";
import type { Principal } from "./principal.ts";
import { readCertificate } from "./read-certificate.ts";
import { type SafeFetch, SafeFetchError } from "./safe-fetch.ts";
import {
  type CertificateSource,
  certificatesOf,
  type TokenSource,
  trustSourceSchema,
  vouchesByTokens,
} from "./trust-source.ts";

/** What a look at a trust source's keys found, in our own words. */
export interface KeyCheck {
  readonly ok: boolean;
  readonly keys: number;
  readonly left_out: string[];
  readonly problem: string | null;
}

/**
 * Reads a trust source's keys as a token's verification would, and says what came of it. It neither fills nor empties
 * any cache. Registering a source fetches nothing: its publisher may be down, or come up after it.
 */
export async function tryKeys(
  db: Db,
  fetchJson: SafeFetch,
  caller: Principal,
  id: Id<"trustSource">,
): Promise<KeyCheck> {
  const row = await db.withTenant({ tenantId: caller.tenantId, actor: caller.subject }, (tx) =>
    tx
      .selectFrom("trust_sources")
      .select(["kind", "issuer", "settings"])
      .where("tenant_id", "=", caller.tenantId)
      .where("id", "=", id)
      .executeTakeFirst(),
  );
  if (row === undefined) throw notFound();
  const source = trustSourceSchema.parse({ kind: row.kind, issuer: row.issuer, ...row.settings });
  if (!vouchesByTokens(source)) return tryCertificates(source, new Date());
  try {
    const { keys, authorities, leftOut } = await importSourceKeys(source, await documentOf(source, fetchJson));
    const usable = keys.length + authorities.length;
    const problem = usable === 0 ? "no key of the document can be used" : null;
    return { ok: problem === null, keys: usable, left_out: [...leftOut], problem };
  } catch (error) {
    if (!(error instanceof SafeFetchError || error instanceof KeySetError)) throw error;
    return { ok: false, keys: 0, left_out: [], problem: error.message };
  }
}

/** What is registered was good when it was; only its time may be over. */
function tryCertificates(source: CertificateSource, now: Date): KeyCheck {
  const leftOut: string[] = [];
  const certificates = certificatesOf(source);
  for (const [index, certificate] of certificates.entries()) {
    const read = readCertificate(certificate);
    const problem = read === undefined ? "it cannot be read" : judgeTime(read, now)?.detail;
    if (problem !== undefined) leftOut.push(`certificate ${index}: ${problem}`);
  }
  const usable = certificates.length - leftOut.length;
  const problem = usable === 0 ? "no certificate of the trust source can be used" : null;
  return { ok: problem === null, keys: usable, left_out: leftOut, problem };
}

async function documentOf(source: TokenSource, fetchJson: SafeFetch): Promise<unknown> {
  if (source.kind === "key_set") return source.jwks;
  if (!isRemote(source)) return "bundle" in source ? source.bundle : undefined;
  const { answer } = await fetchKeys(source, fetchJson, undefined);
  return answer.status === "fresh" ? answer.document : undefined;
}
