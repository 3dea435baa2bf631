import { hash } from "node:crypto";
import type { CryptoKey } from "jose";
import { keepNewest } from "../lib/keep-newest.ts";
import type { KeyAnswer } from "./key-set.ts";
import type { Principal } from "./principal.ts";

/** A caller whose token was verified and looked up before. */
export interface KnownCaller {
  readonly principal: Principal;
  /** The key that signed the token, and whether the trust source still has it. Fetches nothing in the caller's time. */
  readonly key: CryptoKey;
  readonly findKey: () => KeyAnswer | Promise<KeyAnswer>;
  /** From this moment the token is refused, by its own end or its age. */
  readonly untilMs: number;
}

/** Callers by token. What is remembered is true as long as the generation of the registry is that of its principal. */
export interface KnownCallers {
  /** Who sent this token before, if it could be sent now. Undefined when it has to be verified (again). */
  find(token: string, nowMs: number): Promise<Principal | undefined>;
  remember(token: string, caller: KnownCaller): void;
}

/** Some 3 KB each. */
const MAX_KNOWN = 5_000;

/**
 * Remembers callers by the hash of their token, never by its text. An agent sends one token many times, and verifying
 * its signature is the dearest part of a request. The same text, signed by a key that is still there and not yet at its
 * end, gives the same verdict; everything that is stored about the caller hangs on the generation, which whoever uses
 * this compares.
 */
export function createKnownCallers(): KnownCallers {
  const known = new Map<string, KnownCaller>();
  return {
    async find(token, nowMs) {
      const name = nameOf(token);
      const caller = known.get(name);
      if (caller === undefined) return undefined;
      const answer = nowMs < caller.untilMs ? await caller.findKey() : undefined;
      if (answer !== undefined && "keys" in answer && answer.keys.includes(caller.key)) return caller.principal;
      known.delete(name);
      return undefined;
    },
    remember(token, caller) {
      keepNewest(known, MAX_KNOWN, nameOf(token), caller);
    },
  };
}

function nameOf(token: string): string {
  return hash("sha256", token, "base64");
}
