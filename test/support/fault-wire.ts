import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import type { FaultProxy } from "./fault-proxy.ts";

/** What happens to something that a client sends over TCP. As a fault of a request, without a protocol. */
export interface WireFault {
  readonly name: string;
  readonly forward: boolean;
  readonly means: "unavailable" | "rejected" | "either";
  readonly waits?: true;
  readonly looksGood?: true;
  reply(client: Socket, came: Buffer): void;
}

const GARBAGE = randomBytes(512);

/** Every fault of a connection (reliability F4). */
export const wireFaults: readonly WireFault[] = [
  { name: "a hang", forward: false, means: "unavailable", waits: true, reply: () => undefined },
  { name: "a hang after the effect", forward: true, means: "unavailable", waits: true, reply: () => undefined },
  {
    name: "a reset before the effect",
    forward: false,
    means: "unavailable",
    reply: (client) => void client.resetAndDestroy(),
  },
  {
    name: "a reset after the effect",
    forward: true,
    means: "unavailable",
    reply: (client) => void client.resetAndDestroy(),
  },
  { name: "an end before the effect", forward: false, means: "unavailable", reply: (client) => void client.end() },
  { name: "an end after the effect", forward: true, means: "unavailable", reply: (client) => void client.end() },
  {
    name: "half an answer",
    forward: true,
    means: "unavailable",
    reply: (client, came) => void client.end(came.subarray(0, came.length / 2)),
  },
  {
    name: "half an answer and a hang",
    forward: true,
    means: "either",
    waits: true,
    reply: (client, came) => void client.write(came.subarray(0, came.length / 2)),
  },
  { name: "garbage", forward: false, means: "either", waits: true, reply: (client) => void client.write(GARBAGE) },
  {
    name: "garbage after the effect",
    forward: true,
    means: "either",
    waits: true,
    reply: (client) => void client.write(GARBAGE),
  },
  {
    name: "a web page",
    forward: false,
    means: "either",
    reply: (client) => void client.end("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"),
  },
  {
    name: "20 MB after the effect",
    forward: true,
    means: "either",
    waits: true,
    reply: (client) => void client.write(Buffer.alloc(20 * 1024 * 1024, GARBAGE)),
  },
];

/** A TCP relay between an issuer and its far side: one fault to what is sent with these numbers. `tlsUrl` is its own, without TLS. */
export async function faultWire(farSide: string): Promise<FaultProxy<WireFault>> {
  const { hostname, port } = new URL(farSide);
  let failing: Parameters<FaultProxy<WireFault>["fail"]> | undefined;
  let seen = 0;
  const open = new Set<Socket>();
  const track = (socket: Socket): Socket => {
    open.add(socket);
    return socket.on("error", () => undefined).on("close", () => open.delete(socket));
  };
  const relay = createServer((socket) => {
    const client = track(socket);
    const server = track(connect(Number(port), hostname));
    // Once something was done to a connection, nothing else comes over it.
    let broken: ((came: Buffer) => void) | "silent" | undefined;
    client.on("data", (chunk: Buffer) => {
      seen += 1;
      if (broken === "silent") return;
      if (failing === undefined || (failing[1] !== undefined && !failing[1].includes(seen))) {
        server.write(chunk);
        return;
      }
      const [fault, , met] = failing;
      const reply = (came: Buffer): void => {
        broken = "silent";
        fault.reply(client, came);
        met();
      };
      if (!fault.forward) {
        reply(Buffer.alloc(0));
        return;
      }
      broken = reply;
      server.write(chunk);
    });
    server.on("data", (chunk: Buffer) => {
      if (broken === undefined) client.write(chunk);
      else if (broken !== "silent") broken(chunk);
    });
    client.on("close", () => server.destroy());
    server.on("close", () => client.destroy());
  });
  await once(relay.listen(0, "127.0.0.1"), "listening");
  const url = `tcp://127.0.0.1:${(relay.address() as AddressInfo).port}`;
  return {
    url,
    tlsUrl: url,
    fail(...how) {
      failing = how;
      seen = 0;
    },
    clear() {
      failing = undefined;
    },
    strangers: () => 0,
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      await new Promise((closed) => relay.close(closed));
    },
  };
}
