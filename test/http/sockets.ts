import type { Socket } from "node:net";
import { until } from "../support/until.ts";
import type { Serving } from "./harness.ts";

/** A note, and the requests that post it: the head without its length, and all of it. */
export const BODY = `{"text":"a"}`;
export const HEAD = `POST /v1/notes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer agent\r\nContent-Type: application/json\r\n`;
export const FULL = `${HEAD}Content-Length: ${BODY.length}\r\n\r\n${BODY}`;

/** What came so far on a connection, and a way to wait for more of it. */
export function reading(socket: Socket) {
  let text = "";
  socket.on("data", (chunk: Buffer) => {
    text += chunk.toString("latin1");
  });
  socket.on("error", () => undefined);
  return {
    get text() {
      return text;
    },
    contains: (part: string) => until(`${part} on the connection`, () => text.includes(part)),
  };
}

/** Unlike `events.once` it does not take a reset for a failure: a server that cuts off may well cause one. */
export function closing(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket.once("close", () => resolve());
  });
}

/** Waits until this many connections are the server's, so that what was written on them can be. */
export function connections(server: Serving, count: number): Promise<boolean> {
  return until(
    `${count} connections`,
    () =>
      new Promise<boolean>((resolve) => {
        server.http.server.getConnections((_, present) => resolve(present === count));
      }),
  );
}
