import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

/** `asked`: something that Mayfly says to a far side, before it arrives. `answered`: something that the far side says back. */
export type Direction = "asked" | "answered";

/** A TCP relay that can stop the conversation at any step of it. */
export interface StepWire extends AsyncDisposable {
  readonly port: number;
  /** What was said in this direction so far, in pieces as they came. */
  said(direction: Direction): number;
  /** Stops everything at the piece of this number, counted from now and 1 on. */
  stopAt(direction: Direction, number: number): void;
  /** Whether it has come to that. */
  stopped(): boolean;
  /** Lets everything go on, to where it was going, even when who said it is gone. */
  letGo(): void;
}

export async function stepWire(farSide: { readonly hostname: string; readonly port: number }): Promise<StepWire> {
  const said = { asked: 0, answered: 0 };
  let stop: { readonly direction: Direction; readonly at: number } | undefined;
  let held: (() => void)[] | undefined;
  const open = new Set<Socket>();
  const track = (socket: Socket): Socket => {
    open.add(socket);
    return socket.on("error", () => undefined).on("close", () => open.delete(socket));
  };
  const pass = (direction: Direction, act: () => void): void => {
    said[direction] += 1;
    if (stop?.direction === direction && said[direction] === stop.at) held ??= [];
    if (held === undefined) act();
    else held.push(act);
  };
  const relay = createServer((socket) => {
    const client = track(socket);
    const server = track(connect(farSide.port, farSide.hostname));
    client.on("data", (chunk: Buffer) => pass("asked", () => void server.write(chunk)));
    server.on("data", (chunk: Buffer) => pass("answered", () => void client.write(renamed(chunk))));
    // What was said before still arrives.
    const end = (other: Socket) => (): void => {
      if (held === undefined) other.end();
      else held.push(() => void other.end());
    };
    client.on("close", end(server));
    server.on("close", end(client));
  });
  await once(relay.listen(0, "127.0.0.1"), "listening");
  const { port } = relay.address() as AddressInfo;
  // Who names itself in its answers (an issuer) goes by the wire's address. Ports of one length: nothing is longer after it.
  const renamed = (chunk: Buffer): Buffer =>
    Buffer.from(chunk.toString("latin1").replaceAll(`127.0.0.1:${farSide.port}`, `127.0.0.1:${port}`), "latin1");
  return {
    port,
    said: (direction) => said[direction],
    stopAt(direction, number) {
      stop = { direction, at: said[direction] + number };
    },
    stopped: () => held !== undefined,
    letGo() {
      const waiting = held ?? [];
      [stop, held] = [undefined, undefined];
      for (const act of waiting) act();
    },
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      await new Promise((closed) => relay.close(closed));
    },
  };
}
