import type { Readable } from "node:stream";
import { MayflyError } from "../lib/errors.ts";
import { stopSignal, turnstile } from "./turns.ts";

/**
 * A few connections of their own for one sort of work. Work waits its turn; when `signal` aborts or `withinMs` is over, waiting
 * ends and a lent connection is destroyed. Whatever fails comes out as a {@link MayflyError}. Work is begun again when a
 * connection that was kept turns out dead before its first answer: so the first thing of any work must be a read. Disposing
 * closes what is idle; what is lent is closed when it comes back.
 */
export interface Lane<Connection> extends AsyncDisposable {
  use<Result>(
    signal: AbortSignal,
    withinMs: number,
    work: (connection: Connection) => Promise<Result>,
  ): Promise<Result>;
}

/** One connection to a far side that does not speak HTTP. */
export interface Link<Connection> {
  /** Connects and logs in. */
  open(): Promise<unknown>;
  /** What one piece of work is given. */
  readonly connection: Connection;
  /** Whether it may be lent again. */
  usable(): boolean;
  /** Takes its leave of the far side. Absent: the protocol knows no good-bye. */
  end?(): void;
  /** Ends it now, whether or not the far side listens. */
  destroy(): void;
}

/** What a link tells its lane while it is lent. */
export interface Loan {
  /** Whether the far side has answered anything, be it a refusal. */
  answered: boolean;
  /** Bytes of the answer that is coming: set to 0 before something is sent. */
  received: number;
  /** Says that it is of no use any more. The first reason stays: what comes after says less. */
  fail(error: unknown): void;
}

/** What differs from protocol to protocol. */
interface Protocol<Connection> {
  link(loan: Loan): Link<Connection>;
  /** Whether a connection on which work failed with this is as good as before. */
  keeps(error: unknown): boolean;
  toMayflyError(error: unknown, signal: AbortSignal): MayflyError;
}

const IDLE_MS = 10_000;
/** Redis's list of clients, the longest answer of any far side, is about 260 bytes for each of up to 10,000. */
const MOST_BYTES = 16 * 1024 * 1024;
const LEAVES_WITHIN_MS = 2_000;

interface Kept<Connection> {
  readonly link: Link<Connection>;
  readonly loan: Loan;
  readonly broken: Promise<never>;
  timer?: NodeJS.Timeout;
}

/** Opens a lane of so many connections, without connecting. An answer of more than 16 MiB ends its connection. */
export function openLane<Connection>(
  size: number,
  { link: open, keeps, toMayflyError }: Protocol<Connection>,
): Lane<Connection> {
  const turns = turnstile(size);
  const idle: Kept<Connection>[] = [];
  let closed = false;

  const make = (): Kept<Connection> => {
    let breakIt: (error: unknown) => void = () => undefined;
    const broken = new Promise<never>((_, reject) => {
      breakIt = reject;
    });
    broken.catch(() => undefined);
    const loan: Loan = { answered: false, received: 0, fail: (error) => breakIt(error) };
    return { link: open(loan), loan, broken };
  };
  const dismiss = ({ link, timer }: Kept<Connection>): void => {
    clearTimeout(timer);
    if (link.end === undefined) return link.destroy();
    link.end();
    setTimeout(() => link.destroy(), LEAVES_WITHIN_MS).unref();
  };
  const keep = (kept: Kept<Connection>): void => {
    if (!kept.link.usable()) return kept.link.destroy();
    if (closed) return dismiss(kept);
    idle.push(kept);
    kept.timer = setTimeout(() => {
      idle.splice(idle.indexOf(kept), 1);
      dismiss(kept);
    }, IDLE_MS).unref();
  };
  const takeIdle = (): Kept<Connection> | undefined => {
    for (let kept = idle.pop(); kept !== undefined; kept = idle.pop()) {
      if (kept.link.usable()) return kept;
      clearTimeout(kept.timer);
      kept.link.destroy();
    }
    return undefined;
  };
  const lend = async <Result>(
    kept: Kept<Connection> | undefined,
    signal: AbortSignal,
    work: (connection: Connection) => Promise<Result>,
  ): Promise<Result> => {
    const lent = kept ?? make();
    const { link, loan, broken } = lent;
    clearTimeout(lent.timer);
    loan.answered = false;
    // Destroying it is the only way to stop waiting for an answer, and some drivers then forget who waits.
    const abandon = (): void => {
      loan.fail(signal.reason);
      link.destroy();
    };
    signal.addEventListener("abort", abandon, { once: true });
    try {
      signal.throwIfAborted();
      if (kept === undefined) await Promise.race([link.open(), broken]);
      const result = await Promise.race([work(link.connection), broken]);
      keep(lent);
      return result;
    } catch (error) {
      const good = link.usable() && keeps(error);
      if (good) keep(lent);
      else link.destroy();
      const died = !(good || loan.answered || signal.aborted || error instanceof MayflyError);
      // Only what the far side closed while nobody used it: after an answer, the work may have had effects.
      if (died && kept !== undefined) return await lend(undefined, signal, work);
      throw error;
    } finally {
      signal.removeEventListener("abort", abandon);
    }
  };
  return {
    async use(signal, withinMs, work) {
      using deadline = stopSignal(signal, withinMs);
      try {
        using _turn = await turns.enter(deadline.signal);
        return await lend(takeIdle(), deadline.signal, work);
      } catch (error) {
        throw toMayflyError(error, deadline.signal);
      }
    },
    async [Symbol.asyncDispose]() {
      closed = true;
      for (const kept of idle.splice(0)) dismiss(kept);
    },
  };
}

/** Counts what a connection brings, and breaks it above 16 MiB. Of a TLS connection, the stream of what was decrypted. */
export function limitAnswers(stream: Readable, loan: Loan, called: string): void {
  stream.on("data", (chunk: Buffer) => {
    loan.received += chunk.length;
    if (loan.received <= MOST_BYTES) return;
    loan.fail(new MayflyError("target_unavailable", `${called} sent more than 16 MiB`));
    stream.destroy();
  });
}
