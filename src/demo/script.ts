/** A step that did not hold. Ends the demo with a non-zero exit code. */
export class NotProven extends Error {}

/** Tells the story on standard output: each step says what it proved, and the first one that does not hold ends it. */
export interface Script {
  scene(title: string): void;
  /** Prints a proven fact, or throws {@link NotProven} with what was seen instead. */
  prove(fact: string, holds: boolean, seen?: unknown): void;
  say(text: string): void;
}

export function createScript(write: (text: string) => void): Script {
  let number = 0;
  return {
    scene(title) {
      number += 1;
      write(`\n${number}. ${title}\n`);
    },
    prove(fact, holds, seen) {
      if (!holds) throw new NotProven(`${fact}\n   seen: ${JSON.stringify(seen)?.slice(0, 2000)}`);
      write(`   ✓ ${fact}\n`);
    },
    say(text) {
      write(`   ${text}\n`);
    },
  };
}

/** What the API answered, read as JSON. */
export interface Answer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: the demo is a client and proves what it reads
  readonly body: any;
}

/** Speaks to the API as whoever holds the token. */
export type Speak = (method: string, path: string, body?: unknown, ifMatch?: string) => Promise<Answer>;

export function speaker(api: string, token: string): Speak {
  return async (method, path, body, ifMatch) => {
    const response = await fetch(`${api}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...(ifMatch === undefined ? {} : { "if-match": `"${ifMatch}"` }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, body: text === "" ? undefined : JSON.parse(text) };
  };
}

/** Waits until `look` finds something. The demo never sleeps for a guess. */
export async function until<Found>(what: string, look: () => Promise<Found | undefined>): Promise<Found> {
  const deadline = performance.now() + 30_000;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > deadline) throw new NotProven(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
