import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { TLSSocket } from "node:tls";

/** A protocol as far as a log-in and the beginning of an answer, for a far side that never stops talking. */
interface Talk {
  /** Said before the client says anything. */
  greeting(tls: boolean): Buffer;
  /** What the client's wish for TLS is answered with. Undefined: TLS comes first of all. */
  readonly upgrade?: Buffer;
  /** The length of that wish, where the client does not wait for the answer. */
  readonly wish?: number;
  /** What lets anybody in. */
  welcome(tls: boolean): Buffer;
  /** The beginning of an answer that is longer than any. */
  answer(sequence: number): Buffer;
}

const nothing = Buffer.alloc(0);
const packet = (sequence: number, ...parts: readonly (Buffer | string)[]): Buffer => {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part as string)));
  const header = Buffer.alloc(4);
  header.writeUIntLE(body.length, 0, 3);
  header[3] = sequence;
  return Buffer.concat([header, body]);
};
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(" ", ""), "hex");

export const talks = {
  redis: {
    greeting: () => nothing,
    welcome: () => Buffer.from("+OK\r\n"),
    answer: () => Buffer.from("$999999999\r\n"),
  },
  postgres: {
    greeting: () => nothing,
    upgrade: Buffer.from("S"),
    // AuthenticationOk, ReadyForQuery.
    welcome: () => hex("52 00000008 00000000 5a 00000005 49"),
    answer: () => hex("44 7ffffff0"),
  },
  mysql: {
    // Protocol 4.1, secure connection, plug-in authentication, and TLS or not.
    greeting: (tls) =>
      packet(
        0,
        "\n8.0.40\0",
        hex("01000000"),
        "12345678\0",
        hex(`00${tls ? "8a" : "82"} 2d 0200 0800 15`),
        Buffer.alloc(10),
        "123456789012\0",
        "mysql_native_password\0",
      ),
    upgrade: nothing,
    wish: 36,
    welcome: (tls) => packet(tls ? 3 : 2, hex("00 00 00 0200 0000")),
    answer: (sequence) => Buffer.concat([hex("ffffff"), Buffer.from([sequence])]),
  },
} as const satisfies Record<string, Talk>;

/** A far side that lets anybody in and then, or before, never stops talking. */
export interface Endless extends AsyncDisposable {
  readonly port: number;
  /** Bytes that it got rid of. */
  said(): number;
  /** Whether everybody has left. */
  left(): boolean;
}

interface How {
  readonly tls?: { readonly cert: string; readonly key: string };
  /** Before anybody is let in, or when somebody asks something. */
  readonly when: "the log-in" | "an answer";
  /** What it says then without end. Default: one long answer. */
  readonly says?: Buffer;
}

export async function endless(kind: keyof typeof talks, { tls, when, says }: How): Promise<Endless> {
  const talk: Talk = talks[kind];
  const open = new Set<Socket>();
  let said = 0;
  const flood = (socket: Socket, sequence: number): void => {
    const chunk = says ?? Buffer.alloc(1024 * 1024, "x");
    if (says === undefined) socket.write(talk.answer(sequence));
    const on = (): void => {
      for (let more = true; more && !socket.destroyed; said += chunk.length) more = socket.write(chunk);
    };
    socket.on("drain", on);
    on();
  };
  const converse = (socket: Socket): void => {
    const secure = tls !== undefined;
    socket.once("data", () => {
      if (when === "the log-in") return flood(socket, secure ? 3 : 2);
      socket.once("data", () => flood(socket, 1));
      socket.write(talk.welcome(secure));
    });
  };
  const server = createServer((socket) => {
    const track = <S extends Socket>(one: S): S => {
      open.add(one);
      one.on("error", () => undefined).on("close", () => open.delete(one));
      return one;
    };
    track(socket).write(talk.greeting(tls !== undefined));
    if (tls === undefined) return converse(socket);
    const secured = (): void => converse(track(new TLSSocket(socket, { isServer: true, ...tls })));
    if (talk.upgrade === undefined) return secured();
    const upgrade = talk.upgrade;
    socket.once("data", (wish: Buffer) => {
      socket.write(upgrade);
      // MySQL's client begins with TLS at once; PostgreSQL's waits.
      socket.pause();
      if (talk.wish !== undefined && wish.length > talk.wish) socket.unshift(wish.subarray(talk.wish));
      secured();
    });
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return {
    port: (server.address() as AddressInfo).port,
    said: () => said,
    left: () => open.size === 0,
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      await new Promise((closed) => server.close(closed));
    },
  };
}
