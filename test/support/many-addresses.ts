import { type IncomingHttpHeaders, request } from "node:http";

/** What the API answered to one of many callers. */
export interface Answered {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into bodies by name and assert what they find
  readonly body: any;
}

export type CallFromMany = (
  method: "GET" | "POST",
  path: string,
  headers?: Readonly<Record<string, string>>,
  body?: string,
) => Promise<Answered>;

/** An address is refused 30 times at once before it is told to wait (failed-auth-limit.ts). */
const REFUSALS_PER_ADDRESS = 25;

/**
 * Calls the API on this port from one loopback address until it was refused often, and then from the next, so that
 * hundreds of bad tokens each get their own refusal and none a 429. All of 127.0.0.0/8 is this machine's on Linux; on
 * macOS give lo0 the aliases first.
 */
export function fromManyAddresses(port: number): CallFromMany {
  let refusals = 0;
  return async (method, path, headers = {}, body) => {
    const index = 2 + Math.floor(refusals / REFUSALS_PER_ADDRESS);
    const answered = await new Promise<Answered>((resolve, reject) => {
      const localAddress = `127.0.${index >> 8}.${index & 255}`;
      const sending = request(
        { host: "127.0.0.1", port, localAddress, method, path, headers, agent: false },
        (reply) => {
          const chunks: Buffer[] = [];
          reply.on("data", (chunk: Buffer) => chunks.push(chunk));
          reply.on("error", reject);
          reply.on("end", () => {
            const text = Buffer.concat(chunks).toString();
            const isJson = (reply.headers["content-type"] ?? "").includes("json");
            resolve({
              status: reply.statusCode ?? 0,
              headers: reply.headers,
              text,
              body: isJson && text !== "" ? JSON.parse(text) : undefined,
            });
          });
        },
      );
      sending.on("error", reject);
      sending.end(body);
    });
    if (answered.status >= 400) refusals += 1;
    return answered;
  };
}
