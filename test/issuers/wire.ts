import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { type SecureContextOptions, TLSSocket } from "node:tls";

/** A TCP relay to a PostgreSQL server that can do what networks and middlemen do. */
export interface Wire extends AsyncDisposable {
  readonly port: number;
  /** All that clients have sent so far. */
  sent(): string;
  /** Keeps the next message that contains `text` from the server; resolves when it is kept. */
  hold(text: string): Promise<void>;
  /** Lets what was held go on its way. */
  pass(): void;
  /** Delivers what was held, even if its sender has gone away; resolves with the server's answer. */
  release(): Promise<string>;
  /** Delivers the next message that contains `text`, and cuts the line when the server answers. */
  loseAnswerTo(text: string): void;
}

interface WireOptions {
  /** What clients are told instead of what the server said. */
  readonly change?: (answer: Buffer) => Buffer;
  /** Speaks TLS to clients with this certificate. */
  readonly tls?: SecureContextOptions;
}

export async function wire(url: string, { change = (answer) => answer, tls }: WireOptions = {}): Promise<Wire> {
  const { hostname, port } = new URL(url);
  const open = new Set<Socket>();
  const chunks: Buffer[] = [];
  let holding: { readonly text: string; readonly kept: () => void } | undefined;
  let held: { readonly chunk: Buffer; readonly server: Socket } | undefined;
  /** Of what was held: whoever sent it may go away before or after it is delivered. */
  const spared = new Set<Socket>();
  let losing: string | undefined;

  const relay = (client: Socket): void => {
    const server = track(connect(Number(port), hostname));
    let cut = false;
    client.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      if (holding !== undefined && chunk.includes(holding.text)) {
        held = { chunk, server };
        spared.add(server);
        holding.kept();
        holding = undefined;
        return;
      }
      if (losing !== undefined && chunk.includes(losing)) {
        losing = undefined;
        cut = true;
      }
      server.write(chunk);
    });
    server.on("data", (chunk: Buffer) => {
      if (cut) client.destroy();
      else client.write(change(chunk));
    });
    client.on("close", () => {
      if (!spared.has(server)) server.destroy();
    });
    server.on("close", () => client.destroy());
  };
  const deliver = (): Socket => {
    if (held === undefined) throw new Error("nothing is held");
    const { server, chunk } = held;
    held = undefined;
    server.write(chunk);
    return server;
  };
  const track = <S extends Socket>(socket: S): S => {
    open.add(socket);
    socket.on("error", () => {});
    return socket;
  };
  const listener = createServer((socket) => {
    track(socket);
    if (tls === undefined) relay(socket);
    else {
      socket.once("data", () => {
        socket.write("S");
        relay(track(new TLSSocket(socket, { isServer: true, ...tls })));
      });
    }
  });
  await once(listener.listen(0, "127.0.0.1"), "listening");

  return {
    port: (listener.address() as AddressInfo).port,
    sent: () => Buffer.concat(chunks).toString("latin1"),
    hold: (text) => new Promise((kept) => (holding = { text, kept })),
    pass: () => deliver(),
    async release() {
      const server = deliver();
      const [answer] = (await once(server, "data")) as [Buffer];
      server.destroy();
      return answer.toString("latin1");
    },
    loseAnswerTo(text) {
      losing = text;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      await new Promise((closed) => listener.close(closed));
    },
  };
}

/** Announces another process id than the server did, as a pooler does. BackendKeyData: 'K', length 12, process id, key. */
export function withOtherPid(chunk: Buffer): Buffer {
  const at = chunk.indexOf(Buffer.from([0x4b, 0, 0, 0, 12]));
  if (at >= 0) chunk.writeInt32BE(chunk.readInt32BE(at + 5) + 1, at + 5);
  return chunk;
}
