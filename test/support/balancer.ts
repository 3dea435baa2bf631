import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

/** A TCP load balancer on a free loopback port: the one address behind which replicas are. */
export interface Balancer extends AsyncDisposable {
  readonly url: string;
  /** From now on a new connection goes to the first of these ports that takes it. What is open stays where it is. */
  serve(...ports: readonly number[]): void;
  /** How many connections are open to this port. */
  open(port: number): number;
  /** All that clients have sent so far. */
  sent(): string;
}

export async function startBalancer(): Promise<Balancer> {
  const clients = new Set<Socket>();
  const open = new Map<number, number>();
  const chunks: Buffer[] = [];
  let backends: readonly number[] = [];

  const count = (port: number, by: 1 | -1): void => void open.set(port, (open.get(port) ?? 0) + by);
  const relay = (client: Socket, [port, ...others]: readonly number[]): void => {
    if (port === undefined) return void client.destroy();
    const server = connect(port, "127.0.0.1");
    let taken = false;
    server.once("connect", () => {
      taken = true;
      count(port, 1);
      client.pipe(server).pipe(client);
    });
    server.on("error", () => {});
    server.once("close", () => {
      if (!taken) return relay(client, others);
      count(port, -1);
      client.destroy();
    });
    client.once("close", () => server.destroy());
  };
  const server = createServer((client) => {
    clients.add(client);
    client.on("error", () => {});
    client.on("data", (chunk: Buffer) => void chunks.push(chunk));
    client.once("close", () => clients.delete(client));
    // Nothing is lost: it is kept until a backend has taken the connection.
    client.pause();
    relay(client, backends);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    serve(...ports) {
      backends = ports;
    },
    open: (port) => open.get(port) ?? 0,
    sent: () => Buffer.concat(chunks).toString("latin1"),
    async [Symbol.asyncDispose]() {
      for (const client of clients) client.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
