import { connect, type Socket } from "node:net";
import { answerParent } from "./child.ts";
import { type Recipe, requestsOf } from "./requests.ts";

/** Makes the requests of the next round. Not measured. */
export interface Prepare {
  readonly do: "prepare";
  readonly recipe: Recipe;
}

/** Sends them, over this many connections with one request in flight on each, for this long. */
export interface RunRound {
  readonly do: "run";
  readonly port: number;
  readonly connections: number;
  readonly seconds: number;
}

/** What one round gave. */
export interface Round {
  readonly answered: number;
  /** Answers that are not 2xx, and connections that broke. */
  readonly failed: number;
  readonly seconds: number;
  /** Milliseconds from the first byte sent to the last received, one per 2xx answer, sorted. */
  readonly latencies: Float64Array;
  /** The body of the last 2xx answer and, if there is one, the first that failed: to see that the right thing was measured. */
  readonly sample: string;
  readonly failure: string;
  /** Of this process, in the round: were it near 100 %, the generator would be what is measured. */
  readonly cpuSeconds: number;
}

interface Prepared {
  readonly requests: readonly Buffer[];
  /** Whether a request may be sent again. When not, a round ends early rather than repeat one. */
  readonly reusable: boolean;
  next: number;
}

let prepared: Prepared = { requests: [], reusable: false, next: 0 };

answerParent(async (message: Prepare | RunRound) => {
  if (message.do === "run") return runRound(message);
  prepared = { ...requestsOf(message.recipe), next: 0 };
  return { prepared: prepared.requests.length };
});

function nextRequest(): Buffer | undefined {
  const { requests, reusable } = prepared;
  const request = requests[reusable ? prepared.next % requests.length : prepared.next];
  prepared.next += 1;
  return request;
}

async function runRound({ port, connections, seconds }: RunRound): Promise<Round> {
  const latencies: number[] = [];
  const seen = { failed: 0, sample: "", failure: "" };
  const cpu = process.cpuUsage();
  const startedAt = performance.now();
  const until = startedAt + seconds * 1000;
  const one = async (): Promise<void> => {
    using connection = openConnection(port);
    while (performance.now() < until) {
      const request = nextRequest();
      if (request === undefined) return;
      const sentAt = performance.now();
      const { status, body } = await connection.send(request);
      if (status >= 200 && status < 300) {
        latencies.push(performance.now() - sentAt);
        seen.sample = body;
      } else {
        seen.failed += 1;
        seen.failure ||= `${status} ${body}`;
      }
    }
  };
  await Promise.all(Array.from({ length: connections }, one));
  const elapsed = (performance.now() - startedAt) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const sorted = Float64Array.from(latencies).sort();
  return {
    answered: latencies.length,
    seconds: elapsed,
    latencies: sorted,
    cpuSeconds: (user + system) / 1e6,
    ...seen,
  };
}

interface Answer {
  /** 0: the connection broke. */
  readonly status: number;
  readonly body: string;
}

interface Connection extends Disposable {
  send(request: Buffer): Promise<Answer>;
}

/**
 * A keep-alive HTTP/1.1 client that costs next to nothing: answers are taken as the two servers give them, with a
 * Content-Length and no interim answers; anything else counts as failed. Connects anew when the server has closed.
 */
function openConnection(port: number): Connection {
  let socket: Socket | undefined;
  let answer: ((answer: Answer) => void) | undefined;
  let received = Buffer.alloc(0);

  const settle = (given: Answer): void => {
    const waiting = answer;
    answer = undefined;
    received = Buffer.alloc(0);
    waiting?.(given);
  };
  const lost = (broken: Socket, why: string): void => {
    if (socket !== broken) return;
    socket = undefined;
    settle({ status: 0, body: why });
  };
  const open = (): Socket => {
    const opened = connect({ port, host: "127.0.0.1", noDelay: true });
    opened.on("data", (chunk) => {
      received = received.length === 0 ? chunk : Buffer.concat([received, chunk]);
      const parsed = parseAnswer(received);
      if (parsed === undefined) return;
      if (parsed.last) {
        socket = undefined;
        opened.end();
      }
      settle(parsed);
    });
    opened.on("error", (error) => lost(opened, error.message));
    opened.on("close", () => lost(opened, "the server closed the connection"));
    return opened;
  };
  return {
    send(request) {
      return new Promise((resolve) => {
        answer = resolve;
        socket ??= open();
        socket.write(request);
      });
    },
    [Symbol.dispose]() {
      const closing = socket;
      socket = undefined;
      closing?.destroy();
    },
  };
}

const HEAD_END = Buffer.from("\r\n\r\n");

/** The answer, once it is there in full; `last` when the server closes the connection after it. */
function parseAnswer(bytes: Buffer): (Answer & { readonly last: boolean }) | undefined {
  const end = bytes.indexOf(HEAD_END);
  if (end < 0) return undefined;
  const head = bytes.toString("latin1", 0, end).toLowerCase();
  const length = /\r\ncontent-length: (\d+)/.exec(head)?.[1];
  if (length === undefined) return { status: 0, body: `no Content-Length in: ${head}`, last: true };
  const bodyAt = end + HEAD_END.length;
  if (bytes.length < bodyAt + Number(length)) return undefined;
  return {
    status: Number(head.slice(9, 12)),
    body: bytes.toString("utf8", bodyAt, bodyAt + Number(length)),
    last: head.includes("\r\nconnection: close"),
  };
}
