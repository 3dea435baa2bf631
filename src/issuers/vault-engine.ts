import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import { Secret } from "../lib/secret.ts";

/** What an engine made: its lease, if it has one, and the data, each text in a {@link Secret}. */
export interface Generated {
  /** Absent: the engine keeps no lease, so nothing in Vault could take it back. */
  readonly lease: string | undefined;
  /** When it ends by itself, in milliseconds since 1970. Undefined when the answer does not tell, infinite when it cannot be read. */
  readonly endsAtMs: number | undefined;
  readonly secret: Readonly<Record<string, Secret | string | number>>;
}

const generated = z.object({
  lease_id: z.string().max(1024).default(""),
  lease_duration: z.number().min(0).default(0),
  data: z.record(z.string(), z.unknown()),
});

/** Reads an engine's answer. `startedAtMs` is from before it was asked, so that an end errs on the early side. */
export function toGenerated(body: unknown, startedAtMs: number): Generated {
  const parsed = generated.safeParse(body);
  if (!parsed.success) throw new MayflyError("target_rejected", "the engine answered nothing that could be handed out");
  const { lease_id, lease_duration, data } = parsed.data;
  const ends = [
    ...(lease_duration > 0 ? [startedAtMs + lease_duration * 1000] : []),
    ...(typeof data["expiration"] === "number" ? [data["expiration"] * 1000] : []),
    ...(typeof data["signed_key"] === "string" ? [sshCertificateEnd(data["signed_key"])] : []),
  ];
  return {
    lease: lease_id === "" ? undefined : lease_id,
    // The latest: what a certificate says counts, whatever the lease beside it.
    endsAtMs: ends.length === 0 ? undefined : Math.max(...ends),
    secret: asSecrets(data),
  };
}

function asSecrets(data: Readonly<Record<string, unknown>>): Generated["secret"] {
  const secret: Record<string, Secret | number> = {};
  for (const [name, value] of Object.entries(data)) {
    if (value === null || value === undefined) continue;
    if (typeof value === "number") secret[name] = value;
    else secret[name] = new Secret(typeof value === "string" ? value : JSON.stringify(value));
  }
  return secret;
}

/** What of an OpenSSH user certificate comes before its end, per algorithm, in length-prefixed fields (PROTOCOL.certkeys). */
const KEY_FIELDS: Readonly<Record<string, number>> = {
  "ssh-rsa-cert-v01@openssh.com": 2,
  "ssh-ed25519-cert-v01@openssh.com": 1,
  "ecdsa-sha2-nistp256-cert-v01@openssh.com": 2,
  "ecdsa-sha2-nistp384-cert-v01@openssh.com": 2,
  "ecdsa-sha2-nistp521-cert-v01@openssh.com": 2,
};

/** The `valid before` of an OpenSSH certificate, in milliseconds since 1970. Infinity when it cannot be read. */
function sshCertificateEnd(text: string): number {
  const [algorithm = "", base64 = ""] = text.trim().split(" ");
  const fields = KEY_FIELDS[algorithm];
  if (fields === undefined) return Number.POSITIVE_INFINITY;
  const bytes = Buffer.from(base64, "base64");
  try {
    let at = 0;
    const skip = (): void => {
      at += 4 + bytes.readUInt32BE(at);
    };
    skip(); // the algorithm again
    skip(); // nonce
    for (let i = 0; i < fields; i += 1) skip();
    at += 8 + 4; // serial, type
    skip(); // key id
    skip(); // principals
    return Number(bytes.readBigUInt64BE(at + 8)) * 1000; // after `valid after`
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
