import { type AddressInfo, createServer } from "node:net";
import { gzipSync } from "node:zlib";
import { describe, expect, test } from "@jest/globals";
import { createSafeFetch, type SafeFetchProblem } from "../../src/identity/safe-fetch.ts";
import { type Handler, json, localServer } from "./local-server.ts";
import { problemOf, resolver } from "./resolver.ts";
import { selfSigned } from "./self-signed.ts";

const safeFetch = createSafeFetch({ allowLoopbackHttp: true });

describe("a small JSON document is fetched", () => {
  test.each<[name: string, headers: Record<string, string>, expected: object]>([
    ["with nothing said", {}, {}],
    ["as a JWK Set", { "content-type": "application/jwk-set+json; charset=UTF-8" }, {}],
    ["with an entity tag", { etag: '"v1"' }, { etag: '"v1"' }],
    ["with a life", { "cache-control": "public, max-age=300, must-revalidate" }, { maxAgeSeconds: 300 }],
    ["not to be stored", { "cache-control": "max-age=300, no-store" }, { maxAgeSeconds: 0 }],
    ["to be checked every time", { "cache-control": "no-cache" }, { maxAgeSeconds: 0 }],
    ["with a life that is none", { "cache-control": "max-age=-1" }, {}],
    ["with a shared life only", { "cache-control": "s-maxage=300" }, {}],
    ["with cookies, which are nothing to us", { "set-cookie": "a=b" }, {}],
    ["with an entity tag that is too long to be sent back", { etag: `"${"e".repeat(300)}"` }, {}],
  ])("%s", async (_name, headers, expected) => {
    await using server = await localServer(json({ keys: [] }, headers));
    await expect(safeFetch(`${server.origin}/keys`)).resolves.toEqual({
      status: "fresh",
      document: { keys: [] },
      ...expected,
    });
  });

  test("and nothing but a plain GET is sent: no cookie, no credential, no proxy, no compression", async () => {
    let seen: unknown;
    await using server = await localServer((request, response) => {
      seen = { method: request.method, url: request.url, headers: request.headers };
      json({})(request, response);
    });
    const { HTTP_PROXY, http_proxy } = process.env;
    Object.assign(process.env, { HTTP_PROXY: "http://127.0.0.1:1", http_proxy: "http://127.0.0.1:1" });
    try {
      await safeFetch(`${server.origin}/keys?a=b`);
    } finally {
      for (const [name, value] of Object.entries({ HTTP_PROXY, http_proxy })) {
        if (value === undefined) delete process.env[name];
        else process.env[name] = value;
      }
    }
    expect(seen).toEqual({
      method: "GET",
      url: "/keys?a=b",
      headers: {
        host: `127.0.0.1:${server.port}`,
        connection: expect.any(String),
        accept: "application/json, application/jwk-set+json",
        "accept-encoding": "identity",
      },
    });
  });

  test("again only if it has changed, when its entity tag is known", async () => {
    await using server = await localServer((request, response) => {
      response.writeHead(request.headers["if-none-match"] === '"v1"' ? 304 : 200, {
        etag: '"v1"',
        "content-type": "application/json",
        "cache-control": "max-age=60",
      });
      response.end(request.headers["if-none-match"] === '"v1"' ? undefined : "{}");
    });
    await expect(safeFetch(server.origin)).resolves.toMatchObject({ status: "fresh", etag: '"v1"' });
    await expect(safeFetch(server.origin, { etag: '"v1"' })).resolves.toEqual({
      status: "not_modified",
      maxAgeSeconds: 60,
    });
  });

  test("over TLS, from a server whose certificate is trusted for that name, and from no other", async () => {
    const { cert, key } = selfSigned("localhost");
    const other = selfSigned("other.example");
    await using server = await localServer(json({ ok: true }), { cert, key });
    await using impostor = await localServer(json({ ok: true }), other);
    const { resolve } = resolver(["127.0.0.1"]);
    const trusting = createSafeFetch({ allowLoopbackHttp: true, ca: cert + other.cert, resolve });
    const plain = createSafeFetch({ allowLoopbackHttp: true, resolve });
    await expect(trusting(`https://localhost:${server.port}`)).resolves.toMatchObject({ document: { ok: true } });
    await expect(problemOf(plain(`https://localhost:${server.port}`))).resolves.toBe("not_reachable");
    await expect(problemOf(trusting(`https://localhost:${impostor.port}`))).resolves.toBe("not_reachable");
  });
});

describe("an answer that is anything else gives nothing", () => {
  const endlessOf =
    (status: number, type: string): Handler =>
    (_request, response) => {
      response.writeHead(status, { "content-type": type });
      const chunk = Buffer.alloc(16_384, " ");
      const more = (): void => {
        while (response.write(chunk));
      };
      response.on("drain", more);
      more();
    };
  const big = (bytes: number): Handler => json(`"${"x".repeat(bytes - 2)}"`);

  test.each<[name: string, handler: Handler, problem: SafeFetchProblem]>([
    ...[301, 302, 303, 307, 308].map((status): [string, Handler, SafeFetchProblem] => [
      `a redirect ${status} to a metadata service`,
      json({}, { location: "http://169.254.169.254/latest/meta-data" }, status),
      "redirect_refused",
    ]),
    ["304 though nothing was known", json("", {}, 304), "redirect_refused"],
    ["404", json({}, {}, 404), "status_not_ok"],
    ["500", json({}, {}, 500), "status_not_ok"],
    ["204", json("", {}, 204), "status_not_ok"],
    ["206", json({}, {}, 206), "status_not_ok"],
    ["HTML", json({}, { "content-type": "text/html" }), "content_type_refused"],
    ["plain text", json({}, { "content-type": "text/plain" }), "content_type_refused"],
    ["no content type", (_q, response) => void response.end("{}"), "content_type_refused"],
    [
      "a content type that starts like JSON",
      json({}, { "content-type": "application/json-seq" }),
      "content_type_refused",
    ],
    ["another charset", json({}, { "content-type": "application/json; charset=utf-16" }), "content_type_refused"],
    ["gzip that was not asked for", json(gzipSync("{}"), { "content-encoding": "gzip" }), "encoding_refused"],
    ["a gzip bomb", json(gzipSync(Buffer.alloc(50_000_000, " ")), { "content-encoding": "gzip" }), "encoding_refused"],
    ["br", json("{}", { "content-encoding": "br" }), "encoding_refused"],
    ["an endless body", endlessOf(200, "application/json"), "body_too_large"],
    ["an endless body of another type, which nobody reads", endlessOf(200, "text/html"), "content_type_refused"],
    ["an endless error, which nobody reads", endlessOf(500, "application/json"), "status_not_ok"],
    ["a byte over 64 KiB", big(65_537), "body_too_large"],
    ["a byte order mark", json("\ufeff{}"), "body_not_json"],
    ["bytes that are not UTF-8", json(Buffer.from([0x22, 0xff, 0x22])), "body_not_json"],
    ["a name twice", json('{"issuer":"a","issuer":"b"}'), "body_not_json"],
    ["half a document", json('{"keys":['), "body_not_json"],
    ["nothing", json(""), "body_not_json"],
    [
      "a body shorter than promised",
      (_q, response) => {
        response.writeHead(200, { "content-type": "application/json", "content-length": "100" });
        response.write("{}");
        setImmediate(() => response.destroy());
      },
      "not_reachable",
    ],
    ["a connection that is cut", (_q, response) => void response.destroy(), "not_reachable"],
    [
      "headers of 1 MB",
      (_q, response) => {
        response.writeHead(200, { "content-type": "application/json", "x-big": "x".repeat(1_000_000) });
        response.end("{}");
      },
      "not_reachable",
    ],
  ])("%s", async (_name, handler, problem) => {
    await using server = await localServer(handler);
    await expect(problemOf(safeFetch(server.origin))).resolves.toBe(problem);
    await server.closed();
  });

  test("exactly 64 KiB is taken; a caller may allow more, but never beyond 512 KiB", async () => {
    await using server = await localServer(big(65_536));
    await using bigger = await localServer(big(524_288));
    await using tooBig = await localServer(big(524_289));
    await expect(safeFetch(server.origin)).resolves.toMatchObject({ status: "fresh" });
    await expect(safeFetch(bigger.origin, { maxBytes: 1e9 })).resolves.toMatchObject({ status: "fresh" });
    await expect(problemOf(safeFetch(tooBig.origin, { maxBytes: 1e9 }))).resolves.toBe("body_too_large");
  });

  test("an error holds nothing of the answer", async () => {
    await using server = await localServer(json('{"s3cret":', { "x-s3cret": "s3cret" }));
    const error = (await safeFetch(server.origin).catch((reason: unknown) => reason)) as Error;
    expect([error.message, error.stack, error.cause].join(" ")).not.toContain("s3cret");
  });

  test("a refused URL causes no connection", async () => {
    await using server = await localServer(json({}));
    await expect(problemOf(createSafeFetch({ allowLoopbackHttp: false })(server.origin))).resolves.toBe(
      "url_not_allowed",
    );
    await expect(problemOf(safeFetch(`http://u:p@127.0.0.1:${server.port}`))).resolves.toBe("url_not_allowed");
    expect(server.connections()).toBe(0);
  });
});

describe("one time limit for all of it", () => {
  const hasty = createSafeFetch({ allowLoopbackHttp: true, timeoutMs: 150 });

  test.each<[name: string, handler: Handler]>([
    ["a server that never answers", () => {}],
    [
      "a body that drips",
      (_request, response) => {
        response.writeHead(200, { "content-type": "application/json" });
        const timer = setInterval(() => response.write(" "), 20);
        response.on("close", () => clearInterval(timer));
      },
    ],
    [
      "headers that drip",
      (request) => {
        const timer = setInterval(() => request.socket.write("x"), 20);
        request.socket.write("HTTP/1.1 200 OK\r\nx-drip: ");
        request.socket.on("close", () => clearInterval(timer));
      },
    ],
  ])("%s is given up, and its connection closed", async (_name, handler) => {
    await using server = await localServer(handler);
    await expect(problemOf(hasty(server.origin))).resolves.toBe("timed_out");
    await server.closed();
  });

  test("a TLS handshake that never ends is given up, and its connection closed", async () => {
    const silent = createServer();
    const closed = new Promise((resolve) => {
      silent.on("connection", (socket) =>
        socket
          .on("close", resolve)
          .on("error", () => {})
          .resume(),
      );
    });
    await new Promise<void>((resolve) => {
      silent.listen(0, "127.0.0.1", resolve);
    });
    const { port } = silent.address() as AddressInfo;
    await expect(problemOf(hasty(`https://127.0.0.1:${port}`))).resolves.toBe("timed_out");
    await closed;
    silent.close();
  });

  test("a name that never resolves is given up", async () => {
    const stuck = createSafeFetch({ allowLoopbackHttp: false, timeoutMs: 150, resolve: () => {} });
    await expect(problemOf(stuck("https://issuer.example"))).resolves.toBe("timed_out");
  });
});

describe("the address that is connected to is the address that was judged", () => {
  test.each<[name: string, addresses: string[]]>([
    ["loopback", ["127.0.0.1"]],
    ["a metadata service", ["169.254.169.254"]],
    ["a private network", ["10.0.0.1"]],
    ["IPv6 loopback", ["::1"]],
    ["IPv4 in IPv6", ["::ffff:127.0.0.1"]],
    ["a public and a private one", ["93.184.216.34", "127.0.0.1"]],
    ["a private and a public one", ["127.0.0.1", "93.184.216.34"]],
    ["nothing", []],
    ["something that is no address", ["localhost"]],
  ])("a name that resolves to %s is not connected to", async (_name, addresses) => {
    await using server = await localServer(json({}));
    const { resolve, asked } = resolver(addresses);
    const guarded = createSafeFetch({ allowLoopbackHttp: true, resolve });
    await expect(problemOf(guarded(`https://rebind.example:${server.port}/`))).resolves.toBe("address_not_allowed");
    expect(asked).toEqual(["rebind.example"]);
    expect(server.connections()).toBe(0);
  });

  test("a name is resolved once: a second answer has nobody who asks for it (rebinding)", async () => {
    await using server = await localServer(json({ first: true }));
    const { resolve, asked } = resolver(["127.0.0.1"], ["169.254.169.254"]);
    const guarded = createSafeFetch({ allowLoopbackHttp: true, resolve });
    await expect(guarded(`http://localhost:${server.port}/`)).resolves.toMatchObject({ document: { first: true } });
    expect(asked).toEqual(["localhost"]);
  });

  test("the next fetch resolves anew and is judged anew, on a connection of its own", async () => {
    await using server = await localServer(json({}));
    const { resolve } = resolver(["127.0.0.1"], ["10.0.0.1"]);
    const guarded = createSafeFetch({ allowLoopbackHttp: true, resolve });
    await guarded(`http://localhost:${server.port}/`);
    await expect(problemOf(guarded(`http://localhost:${server.port}/`))).resolves.toBe("address_not_allowed");
    expect(server.connections()).toBe(1);
  });

  test("a name that does not exist is not reachable", async () => {
    const guarded = createSafeFetch({
      allowLoopbackHttp: false,
      resolve: (_name, done) => done(Object.assign(new Error("queryA ENOTFOUND"), { code: "ENOTFOUND" }), []),
    });
    await expect(problemOf(guarded("https://nowhere.example"))).resolves.toBe("not_reachable");
  });
});
