import { Socket } from "node:net";

/** One connection that this process began. */
export interface Dial {
  readonly address: string;
  readonly port: number;
  readonly socket: Socket;
}

/**
 * Writes down every address that this process dials from now on, as the operating system is asked for it: after names
 * have been resolved and every spelling has been read. Dispose it to stop.
 */
export function watchDials(): Disposable & { readonly dials: Dial[] } {
  const dials: Dial[] = [];
  const { connect } = Socket.prototype;
  Socket.prototype.connect = function watched(this: Socket, ...given: unknown[]) {
    this.on("connectionAttempt", (address: string, port: number) => dials.push({ address, port, socket: this }));
    return Reflect.apply(connect, this, given) as Socket;
  };
  return {
    dials,
    [Symbol.dispose]() {
      Socket.prototype.connect = connect;
    },
  };
}
