import { type ResolveHost, SafeFetchError, type SafeFetchProblem } from "../../src/identity/safe-fetch.ts";

/** A resolver that gives these answers in turn, the last for ever, and remembers what it was asked. */
export function resolver(...answers: (readonly string[])[]): { resolve: ResolveHost; asked: string[] } {
  const asked: string[] = [];
  return {
    asked,
    resolve(hostname, done) {
      const answer = answers[Math.min(asked.length, answers.length - 1)] ?? [];
      asked.push(hostname);
      done(
        null,
        answer.map((address) => ({ address, family: address.includes(":") ? 6 : 4 })),
      );
    },
  };
}

/** What a fetch fails with, or `fetched`. */
export async function problemOf(work: Promise<unknown>): Promise<SafeFetchProblem | "fetched"> {
  try {
    await work;
    return "fetched";
  } catch (error) {
    if (error instanceof SafeFetchError) return error.problem;
    throw error;
  }
}
