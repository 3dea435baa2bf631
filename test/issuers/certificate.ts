import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import type { SecureContextOptions } from "node:tls";

/** A self-signed certificate for one IP address, made on the spot so that no key is kept anywhere. */
export function certificateFor(ip: string): Required<Pick<SecureContextOptions, "key" | "cert">> & { cert: string } {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const algorithm = seq(oid(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02)); // ecdsa-with-SHA256
  const name = seq(der(0x31, seq(oid(0x55, 0x04, 0x03), der(0x0c, Buffer.from("mayfly test")))));
  const time = (days: number): Buffer => {
    const text = new Date(Date.now() + days * 86_400_000).toISOString().replace(/\.\d+/, "").replace(/[-:T]/g, "");
    return der(0x18, Buffer.from(text));
  };
  const alternative = der(0x87, Buffer.from(ip.split(".").map(Number))); // GeneralName iPAddress
  const extension = seq(oid(0x55, 0x1d, 0x11), der(0x04, seq(alternative)));
  const body = seq(
    der(0xa0, der(0x02, Buffer.from([2]))), // version 3
    der(0x02, Buffer.concat([Buffer.from([1]), randomBytes(8)])),
    algorithm,
    name,
    seq(time(-1), time(1)),
    name,
    publicKey.export({ type: "spki", format: "der" }),
    der(0xa3, seq(extension)),
  );
  const signature = Buffer.concat([Buffer.from([0]), sign("sha256", body, privateKey)]);
  const base64 = seq(body, algorithm, der(0x03, signature)).toString("base64");
  const lines = base64.match(/.{1,64}/g) ?? [];
  return {
    key: privateKey.export({ type: "pkcs8", format: "pem" }),
    cert: `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`,
  };
}

function seq(...parts: readonly Buffer[]): Buffer {
  return der(0x30, Buffer.concat(parts));
}

function oid(...bytes: readonly number[]): Buffer {
  return der(0x06, Buffer.from(bytes));
}

function der(tag: number, content: Buffer): Buffer {
  const size = content.length;
  const length = size < 0x80 ? [size] : size < 0x100 ? [0x81, size] : [0x82, size >> 8, size & 0xff];
  return Buffer.concat([Buffer.from([tag, ...length]), content]);
}
