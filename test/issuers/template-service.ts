import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage } from "node:http";

interface Key {
  readonly key: string;
  readonly scope: string;
  readonly endsAtMs: number;
}

/** What `template.test.ts` mints for: a service of nobody's, which gives out keys over HTTP as many a real one does. */
export interface KeyService extends AsyncDisposable {
  readonly url: string;
  readonly adminToken: string;
  readonly keys: ReadonlyMap<string, Key>;
}

/**
 * `PUT /keys/{name}` makes one (409 when there is one, 410 after `not_after`), `GET` looks, `DELETE` ends it, `GET /keys?prefix=`
 * lists. The admin's token is asked for at each of them, and one of the keys at `GET /use`.
 */
export async function keyService(): Promise<KeyService> {
  const adminToken = randomBytes(16).toString("hex");
  const keys = new Map<string, Key>();

  const answer = async (request: IncomingMessage): Promise<readonly [status: number, body?: object]> => {
    const { method, url = "", headers } = request;
    const { pathname, searchParams } = new URL(url, "http://service");
    const token = headers.authorization?.replace(/^Bearer /, "");
    if (pathname === "/use") {
      const alive = [...keys.values()].some(({ key, endsAtMs }) => key === token && endsAtMs > Date.now());
      return [alive ? 200 : 401];
    }
    if (token !== adminToken) return [401];
    if (pathname === "/keys") {
      const prefix = searchParams.get("prefix") ?? "";
      return [200, { names: [...keys.keys()].filter((name) => name.startsWith(prefix)) }];
    }
    const name = decodeURIComponent(pathname.replace("/keys/", ""));
    const there = keys.get(name);
    if (method === "PUT") {
      let body = "";
      for await (const chunk of request) body += String(chunk);
      const { scope, ends_at, not_after } = JSON.parse(body) as Record<string, string>;
      if (keys.has(name)) return [409];
      if (Date.parse(not_after ?? "") < Date.now()) return [410];
      const key = randomBytes(16).toString("hex");
      keys.set(name, { key, scope: scope ?? "", endsAtMs: Date.parse(ends_at ?? "") });
      return [201, { key }];
    }
    if (there === undefined) return [404, { missing: name }];
    if (method === "DELETE") keys.delete(name);
    return method === "DELETE" ? [204] : [200, { ends_at: new Date(there.endsAtMs).toISOString() }];
  };
  const server = createServer((request, response) => {
    void answer(request).then(([status, body]) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(body === undefined ? undefined : JSON.stringify(body));
    });
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}`,
    adminToken,
    keys,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
    },
  };
}
