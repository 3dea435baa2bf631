import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib";
import type { SafeFetchProblem } from "../../src/identity/safe-fetch.ts";
import { type Handler, json } from "./local-server.ts";

// reliability M5, standards §19.1 item 8: the SSRF corpus.

/** Where `PORT` stands, the canary's own port is put: who followed such a URL would arrive there. */
export const PORT = "{port}";

/** URLs that nobody may make Mayfly fetch, by what is wrong with them. */
export const urls: Readonly<Record<string, readonly string[]>> = {
  scheme: [
    `http://issuer.example:${PORT}`,
    "HTTP://issuer.example",
    "ftp://issuer.example/keys",
    "file:///etc/passwd",
    "gopher://issuer.example:6379/_FLUSHALL",
    "dict://issuer.example:11211/stats",
    "ldap://issuer.example/",
    "data:application/json,{}",
    "javascript:1",
    "ws://issuer.example",
    "blob:https://issuer.example/1",
    "//issuer.example",
    "https:issuer.example",
    "https:/issuer.example",
    "https:///issuer.example",
    "https://",
    "issuer.example",
    "/etc/passwd",
  ],
  /** Registered, because a schema cannot know whether the operator allows loopback, and refused when they are fetched. */
  loopback: [
    `http://127.0.0.1:${PORT}`,
    `https://127.0.0.1:${PORT}`,
    `http://localhost:${PORT}`,
    `https://localhost:${PORT}`,
    `https://LOCALHOST:${PORT}/x`,
    `https://[::1]:${PORT}`,
    `https://[0:0:0:0:0:0:0:1]:${PORT}/x`,
    `https://127.1:${PORT}`,
    `https://127.0.1:${PORT}`,
    `https://127.255.255.254:${PORT}`,
    `https://2130706433:${PORT}`,
    `https://0x7f000001:${PORT}`,
    `https://0x7f.0.0.1:${PORT}`,
    `https://0x7f.1:${PORT}`,
    `https://017700000001:${PORT}`,
    `https://0177.0.0.1:${PORT}`,
    `https://127.0.0.1.:${PORT}/x`,
    `https://127%2e0.0.1:${PORT}/x`,
    `https://%31%32%37.0.0.1:${PORT}/x`,
  ],
  metadata: [
    "http://169.254.169.254/latest/meta-data/iam",
    "https://169.254.169.254",
    "https://2852039166",
    "https://0xa9fea9fe",
    "https://0xa9.0xfe.0xa9.0xfe",
    "https://0251.0376.0251.0376",
    "https://169.254.43518",
    "https://169.16689662",
    "https://169.254.169.254.",
    "https://[fd00:ec2::254]",
    "https://[::ffff:169.254.169.254]",
    "https://100.100.100.200",
    "https://192.0.0.192",
    "https://168.63.129.16",
  ],
  "private IPv4": [
    "https://10.0.0.1",
    "https://10.1",
    "https://0xa000001",
    "https://012.0.0.1",
    "https://167772161",
    "https://172.16.0.1",
    "https://172.31.255.255",
    "https://192.168.0.1",
    "https://192.168.1",
    "https://0300.0250.0.1",
    "https://%31%30.0.0.1",
    "https://10%2e0%2e0%2e1",
  ],
  "special IPv4": [
    `https://0.0.0.0:${PORT}`,
    `https://0:${PORT}`,
    "https://100.64.0.1",
    "https://100.127.255.255",
    "https://192.0.2.1",
    "https://192.88.99.1",
    "https://198.18.0.1",
    "https://198.51.100.1",
    "https://203.0.113.1",
    "https://224.0.0.1",
    "https://239.255.255.250",
    "https://240.0.0.1",
    "https://255.255.255.255",
  ],
  IPv6: [
    `https://[::]:${PORT}`,
    "https://[fe80::1]",
    "https://[fe80::1%25eth0]",
    "https://[fc00::1]",
    "https://[fdff::1]",
    "https://[fec0::1]",
    "https://[ff02::1]",
    "https://[100::1]",
    "https://[2001:db8::1]",
    "https://[2001:10::1]",
    "https://[3fff::1]",
    "https://[4000::1]",
    "https://[5f00::1]",
  ],
  "IPv4 in IPv6": [
    `https://[::ffff:127.0.0.1]:${PORT}`,
    `https://[::ffff:7f00:1]:${PORT}`,
    `https://[0:0:0:0:0:ffff:127.0.0.1]:${PORT}`,
    `https://[::127.0.0.1]:${PORT}`,
    "https://[::ffff:10.0.0.1]",
    "https://[::10.0.0.1]",
    "https://[::ffff:0:10.0.0.1]",
    "https://[::ffff:93.184.216.34]",
    "https://[64:ff9b::127.0.0.1]",
    "https://[64:ff9b::a9fe:a9fe]",
    "https://[64:ff9b:1::a00:1]",
    "https://[2002:7f00:1::]",
    "https://[2002:a9fe:a9fe::1]",
    "https://[2001:0:a00:1::]",
  ],
  "user info": [
    "https://u@issuer.example",
    "https://u:p@issuer.example",
    "https://:@issuer.example",
    "https://@issuer.example",
    `https://issuer.example@127.0.0.1:${PORT}`,
    `https://127.0.0.1:${PORT}@issuer.example`,
    "https://issuer.example%40@issuer.example",
  ],
  port: [0, 22, 25, 80, 445, 1023, 65_536, -1].map((port) => `https://issuer.example:${port}`),
  "two readings": [
    " https://issuer.example",
    "https://issuer.example ",
    "https://issuer.example\n",
    "https://iss\tuer.example",
    "https://issuer.example\r\nHost: evil.example",
    `https://issuer.example\\@127.0.0.1:${PORT}`,
    "https:\\\\issuer.example",
    "https://issuer.example\\x",
    "https://issuer.example\0.evil.example",
    "https://issuer。example",
    "https://issuer．example",
    "https://127。0。0。1",
    "https://①②⑦.⓪.⓪.①",
    "https://ｉssuer.example",
    "https://issuer.exámple",
    "https://issuer.example\u200b",
    "https://issuer.example#@evil.example",
    `https://127.0.0.1:${PORT}#.issuer.example`,
    "https://issuer.example/#",
    "https://issuer.example/%23#x",
    `https://issuer.example/${"a".repeat(2048)}`,
  ],
};

/** Refused as an issuer, whose document is at a path below it. As the URL of a key set they stay on their host. */
export const issuerPaths: readonly string[] = [
  "https://issuer.example/a/../b",
  "https://issuer.example/..",
  "https://issuer.example/.",
  "https://issuer.example/a/%2e%2e/b",
  "https://issuer.example/%2E%2E/",
  "https://issuer.example/?x",
  "https://issuer.example?x=/.well-known",
  "https://issuer.example/a?b#c",
  "https://ISSUER.example/",
  "https://issuer.example:443/",
];

/** Names, and the addresses that they resolve to. */
export const names: readonly (readonly [what: string, host: string, addresses: readonly string[]])[] = [
  ["loopback", "localtest.example", ["127.0.0.1"]],
  ["the other end of loopback", "lo.example", ["127.255.255.255"]],
  ["loopback, by a service that echoes", "127.0.0.1.nip.example", ["127.0.0.1"]],
  ["loopback, as a name below localhost", "sub.localhost", ["127.0.0.1"]],
  ["loopback, with a trailing dot", "localhost.", ["127.0.0.1"]],
  ["loopback, in capitals and below", "LOCALHOST.example", ["127.0.0.1"]],
  ["IPv6 loopback", "lo6.example", ["::1"]],
  ["this host", "zero.example", ["0.0.0.0"]],
  ["IPv6 unspecified", "zero6.example", ["::"]],
  ["a metadata service", "metadata.google.internal", ["169.254.169.254"]],
  ["an IPv6 metadata service", "instance-data.example", ["fd00:ec2::254"]],
  ["Azure's host agent", "wireserver.example", ["168.63.129.16"]],
  ["Alibaba's metadata service", "ali.example", ["100.100.100.200"]],
  ["10/8", "ten.example", ["10.1.2.3"]],
  ["172.16/12", "docker.example", ["172.17.0.1"]],
  ["192.168/16", "router.example", ["192.168.0.1"]],
  ["CGNAT", "cgnat.example", ["100.64.0.1"]],
  ["multicast", "multi.example", ["224.0.0.251"]],
  ["broadcast", "all.example", ["255.255.255.255"]],
  ["IPv6 link-local", "link.example", ["fe80::1"]],
  ["IPv6 unique local", "ula.example", ["fc00::1"]],
  ["IPv6 multicast", "multi6.example", ["ff02::1"]],
  ["IPv4-mapped loopback", "mapped.example", ["::ffff:127.0.0.1"]],
  ["IPv4-mapped loopback in hex", "mapped-hex.example", ["::ffff:7f00:1"]],
  ["IPv4-compatible", "compatible.example", ["::7f00:1"]],
  ["6to4 of loopback", "six.example", ["2002:7f00:1::"]],
  ["NAT64 of a metadata service", "nat64.example", ["64:ff9b::a9fe:a9fe"]],
  ["Teredo", "teredo.example", ["2001:0:7f00:1::"]],
  ["a public and a private address", "mixed.example", ["93.184.216.34", "10.0.0.1"]],
  ["a private and a public address", "mixed2.example", ["127.0.0.1", "93.184.216.34"]],
  ["a public address and IPv6 loopback", "mixed6.example", ["93.184.216.34", "::1"]],
  ["a name instead of an address", "alias.example", ["localhost"]],
  ["a short form instead of an address", "short.example", ["127.1"]],
  ["nothing", "nothing.example", []],
];

/** Where an answer that is a redirect points. `PORT` is the canary's. */
export const redirects: readonly (readonly [status: number, location: string])[] = [
  [301, "http://169.254.169.254/latest/meta-data"],
  [302, `http://127.0.0.1:${PORT}/`],
  [303, `http://localhost:${PORT}/`],
  [307, `http://[::ffff:127.0.0.1]:${PORT}/`],
  [308, "https://other.example/keys"],
  [302, "file:///etc/passwd"],
  [302, "gopher://127.0.0.1:6379/_x"],
  [301, "//127.0.0.1/keys"],
  [307, "/keys"],
  [308, ""],
  [300, `http://127.0.0.1:${PORT}/`],
  [305, `http://127.0.0.1:${PORT}/`],
];

const endless =
  (head: Record<string, string>, chunk: Buffer, status = 200): Handler =>
  (_request, response) => {
    response.writeHead(status, head);
    const more = (): void => {
      while (response.write(chunk));
    };
    response.on("drain", more);
    more();
  };
/** Writes these bytes as they are, again and again where they are to be endless. */
const raw =
  (head: string, again?: string): Handler =>
  ({ socket }) => {
    socket.write(head);
    if (again === undefined) {
      socket.end();
      return;
    }
    const more = (): void => {
      while (socket.writable && socket.write(again));
    };
    socket.on("drain", more);
    more();
  };
const drip =
  (head: string, one: string): Handler =>
  ({ socket }) => {
    socket.write(head);
    const timer = setInterval(() => socket.write(one), 20);
    socket.on("close", () => clearInterval(timer));
  };
const OK = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
const space = Buffer.alloc(16_384, " ");
const bomb = Buffer.alloc(20_000_000, " ");
const type = "application/json";

/** Answers that are not a small JSON document and no more, and what becomes of them. */
export const answers: readonly (readonly [what: string, handler: Handler, becomes: SafeFetchProblem | "fetched"])[] = [
  ["more than it promised, without end", raw(`${OK}content-length: 2\r\n\r\n{}`, "x".repeat(9999)), "fetched"],
  ["an endless body", endless({ "content-type": type }, space), "body_too_large"],
  ["an endless string", endless({ "content-type": type }, Buffer.alloc(16_384, "a")), "body_too_large"],
  [
    "a body that promises to be huge",
    raw(`${OK}content-length: 9007199254740991\r\n\r\n`, "x".repeat(9999)),
    "body_too_large",
  ],
  ["an endless page", endless({ "content-type": "text/html" }, space), "content_type_refused"],
  ["an endless error", endless({ "content-type": type }, space, 500), "status_not_ok"],
  ["an endless gzip", endless({ "content-type": type, "content-encoding": "gzip" }, space), "encoding_refused"],
  ["a gzip bomb", json(gzipSync(bomb), { "content-encoding": "gzip" }), "encoding_refused"],
  ["a deflate bomb", json(deflateSync(bomb), { "content-encoding": "deflate" }), "encoding_refused"],
  ["a brotli bomb", json(brotliCompressSync(bomb), { "content-encoding": "br" }), "encoding_refused"],
  ["a coding in capitals", json(gzipSync("{}"), { "content-encoding": "GZIP" }), "encoding_refused"],
  ["two codings", json("{}", { "content-encoding": "identity, gzip" }), "encoding_refused"],
  ["gzip that says nothing of it", json(gzipSync("{}")), "body_not_json"],
  ["a header that is huge", raw(`${OK}x: `, "x".repeat(9999)), "not_reachable"],
  ["headers without end", raw(OK, "a: b\r\n".repeat(500)), "not_reachable"],
  ["interim answers without end", raw("", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(200)), "body_too_large"],
  [
    "a chunk extension without end",
    raw(`${OK}transfer-encoding: chunked\r\n\r\n2;`, "a".repeat(9999)),
    "body_too_large",
  ],
  [
    "chunks of one byte without end",
    raw(`${OK}transfer-encoding: chunked\r\n\r\n`, "1\r\n \r\n".repeat(999)),
    "body_too_large",
  ],
  ["a body that drips", drip(`${OK}transfer-encoding: chunked\r\n\r\n`, "1\r\n \r\n"), "timed_out"],
  ["headers that drip", drip(OK, "a: b\r\n"), "timed_out"],
  ["silence", () => {}, "timed_out"],
  [
    "trailers without end",
    raw(`${OK}transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n`, "a: b\r\n".repeat(500)),
    "not_reachable",
  ],
  ["no HTTP at all", raw("SSH-2.0-OpenSSH_9.6\r\n"), "not_reachable"],
  ["a Redis error", raw("-ERR unknown command 'GET'\r\n"), "not_reachable"],
  ["a page", json("<html>", { "content-type": "text/html" }), "content_type_refused"],
  ["plain text", json("{}", { "content-type": "text/plain" }), "content_type_refused"],
  ["a stream of JSON", json("{}", { "content-type": "application/x-ndjson" }), "content_type_refused"],
  ["UTF-16", json(Buffer.from("{}", "utf16le"), { "content-type": `${type}; charset=utf-16` }), "content_type_refused"],
  ["two content types", raw(`${OK}content-type: text/html\r\nconnection: close\r\n\r\n{}`), "content_type_refused"],
  ["a name twice", json('{"issuer":"a","issuer":"b"}'), "body_not_json"],
  ["a depth bomb", json(`${"[".repeat(30_000)}${"]".repeat(30_000)}`), "body_not_json"],
  ["a list bomb", json(`[${"0,".repeat(30_000)}0]`), "body_not_json"],
  ["an error of a metadata service", json({}, {}, 401), "status_not_ok"],
];
