import { once } from "node:events";
import { createServer } from "node:net";

/** A TCP port of 127.0.0.1 that nobody listens on. Somebody may before the caller does: who cannot bind it asks again. */
export async function freePort(): Promise<number> {
  // Exclusive: in a cluster's worker the main process would choose, and keep it.
  const probe = createServer().listen({ port: 0, host: "127.0.0.1", exclusive: true });
  await once(probe, "listening");
  const address = probe.address();
  probe.close();
  await once(probe, "close");
  if (typeof address !== "object" || address === null) throw new Error("a listening server has no address");
  return address.port;
}
