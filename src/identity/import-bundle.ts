import type { X509Certificate } from "node:crypto";
import { judgeAuthority } from "./bundle-authorities.ts";
import { importKeySet, type KeySet, KeySetError, MAX_KEYS } from "./key-set.ts";
import type { TokenSource } from "./trust-source.ts";

/** The keys of a trust source. */
export interface SourceKeys extends KeySet {
  /** SPIFFE: the anchors of the trust domain's X.509-SVIDs. Empty for other sets, and where none can be used: then no SVID is. */
  readonly authorities: readonly X509Certificate[];
}

/** Imports what a trust source publishes or pins, as its kind says. Throws {@link KeySetError} as {@link importKeySet} does. */
export async function importSourceKeys(
  { kind, algorithms }: Pick<TokenSource, "kind" | "algorithms">,
  document: unknown,
): Promise<SourceKeys> {
  if (kind !== "spiffe") return { ...(await importKeySet(document, "sig", algorithms)), authorities: [] };
  const authorities: X509Certificate[] = [];
  const set = await importKeySet(document, "jwt-svid", algorithms, (candidate) => {
    const verdict = judgeAuthority(candidate);
    if (verdict.kind === "usable") authorities.push(verdict.certificate);
    return verdict.kind === "refused" ? verdict.why : verdict.kind === "usable";
  });
  if (authorities.length > MAX_KEYS) throw new KeySetError(`the bundle has more than ${MAX_KEYS} authorities`);
  return { ...set, authorities };
}
