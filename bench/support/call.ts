import { createPrivateKey } from "node:crypto";
import { signJwt } from "./requests.ts";
import type { Seeded } from "./seed.ts";
import type { Server } from "./server.ts";

/** A token of the seeded trust source for this `sub`. */
export function tokenFor({ workload, issuer, audience }: Seeded, sub: string): string {
  return signJwt(createPrivateKey({ key: workload.jwk, format: "jwk" }), workload.kid, {
    iss: issuer,
    sub,
    aud: audience,
  });
}

/** Calls the API once, outside of any measurement. Throws unless it answers 2xx. */
export async function post<Body>(
  server: Pick<Server, "url">,
  token: string,
  path: string,
  body: object,
): Promise<Body> {
  const response = await fetch(`${server.url}${path}`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${path} answered ${response.status}: ${text}`);
  return JSON.parse(text) as Body;
}

/** Mints this many, so many at a time, spread over the seeded agents. */
export async function mintMany<Secret>(
  server: Server,
  seeded: Seeded,
  { count, target, ttl, width = 32 }: { count: number; target: string; ttl: number; width?: number },
): Promise<{ credential: { id: string }; secret: Secret }[]> {
  const tokens = seeded.callers.map(({ sub }) => tokenFor(seeded, sub));
  const minted: { credential: { id: string }; secret: Secret }[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let index = next++; index < count; index = next++) {
      const caller = index % seeded.callers.length;
      const request = {
        task_id: seeded.callers[caller]?.taskId,
        target,
        actions: ["read"],
        resources: [seeded.resource],
        ttl_seconds: ttl,
      };
      minted.push(await post(server, tokens[caller] ?? "", "/v1/credentials", request));
    }
  };
  await Promise.all(Array.from({ length: width }, lane));
  return minted;
}
