import { hash, X509Certificate } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { BlockList, isIP } from "node:net";
import { TLSSocket } from "node:tls";
import type { ClientCertificate } from "../identity/principal.ts";
import { invalid, MayflyError } from "../lib/errors.ts";
import { trustNetwork } from "../lib/networks.ts";

/** The most bytes that one certificate may have. */
const MAX_BYTES = 8192;
/** The most certificates that come beside the caller's own. */
const MAX_CHAIN = 5;

/** Says which certificate a request came with. Undefined for none. Throws a 400 for one that came in a wrong way. */
export type ReadCertificate = (req: IncomingMessage) => ClientCertificate | undefined;

/**
 * Reads the client's certificate from the TLS connection, where TLS ends here, or else from `Client-Cert` (RFC 9440), if
 * the peer is one of these proxies: addresses or networks, of the socket and never of `X-Forwarded-For`. One request has
 * one way. A header that comes in the other, or from anybody else, is refused, so that a proxy that is not set up for it
 * shows at once.
 */
export function certificateReader(proxies: readonly string[]): ReadCertificate {
  const trusted = new BlockList();
  for (const proxy of proxies) trustNetwork(trusted, proxy);
  // A connection has one certificate: it can neither be renegotiated nor resumed (server.ts).
  const ofConnections = new WeakMap<TLSSocket, ClientCertificate>();

  return (req) => {
    const { socket, headers } = req;
    const sent = headers["client-cert"] ?? headers["client-cert-chain"];
    if (socket instanceof TLSSocket) {
      if (sent !== undefined) throw refused("the certificate of a TLS connection is the one that counts");
      const known = ofConnections.get(socket);
      if (known !== undefined) return known;
      const certificate = ofConnection(socket);
      if (certificate !== undefined) ofConnections.set(socket, certificate);
      return certificate;
    }
    if (sent === undefined) return undefined;
    const peer = socket.remoteAddress ?? "";
    if (isIP(peer) === 0 || !trusted.check(peer, isIP(peer) === 6 ? "ipv6" : "ipv4"))
      throw refused("only a proxy that this server was told to trust may send it");
    return ofHeaders(headers["client-cert"], headers["client-cert-chain"]);
  };
}

function ofConnection(socket: TLSSocket): ClientCertificate | undefined {
  try {
    const leaf = socket.getPeerX509Certificate();
    if (leaf === undefined) return undefined;
    const chain: X509Certificate[] = [];
    for (let at = leaf.issuerCertificate; at !== undefined; at = at.issuerCertificate) {
      // A self-signed one is its own issuer.
      if (chain.length > MAX_CHAIN || at.raw.equals((chain.at(-1) ?? leaf).raw)) break;
      chain.push(at);
    }
    return certificateOf(leaf, chain);
  } catch (error) {
    if (error instanceof MayflyError) throw error;
    throw new MayflyError("invalid_request", "the client certificate of the connection cannot be read");
  }
}

function ofHeaders(leaf: string | string[] | undefined, chain: string | string[] | undefined): ClientCertificate {
  if (typeof leaf !== "string") throw refused("Client-Cert-Chain comes beside a Client-Cert");
  const members =
    typeof chain === "string" ? chain.split(",").map((member) => member.replace(/^[ \t]+|[ \t]+$/g, "")) : [];
  if (members.length > MAX_CHAIN) throw tooMany();
  return certificateOf(
    parse(leaf, "client-cert"),
    members.map((member) => parse(member, "client-cert-chain")),
  );
}

function certificateOf(leaf: X509Certificate, chain: readonly X509Certificate[]): ClientCertificate {
  if (chain.length > MAX_CHAIN) throw tooMany();
  if ([leaf, ...chain].some(({ raw }) => raw.length > MAX_BYTES))
    throw new MayflyError("invalid_request", `a client certificate may have ${MAX_BYTES} bytes at most`);
  return { leaf, chain, thumbprint: hash("sha256", leaf.raw, "base64url") };
}

/** RFC 9440 §2.1: a byte sequence (RFC 9651 §3.3.5) without parameters, in its one spelling, of one DER certificate. */
function parse(member: string, header: string): X509Certificate {
  const base64 = /^:([A-Za-z0-9+/]+={0,2}):$/.exec(member)?.[1] ?? "";
  const der = Buffer.from(base64, "base64");
  if (der.length > 0 && der.toString("base64") === base64) {
    try {
      const certificate = new X509Certificate(der);
      // OpenSSL also takes PEM, and bytes behind the end.
      if (certificate.raw.equals(der)) return certificate;
    } catch {}
  }
  throw invalid(`#/header/${header}`, "must be :, the base64 of one DER certificate, and : (RFC 9440)");
}

function refused(detail: string): MayflyError {
  return invalid("#/header/client-cert", detail);
}

function tooMany(): MayflyError {
  return new MayflyError("invalid_request", `more than ${MAX_CHAIN} certificates came beside the client's own`);
}
