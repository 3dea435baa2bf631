import type { RefusalCode } from "../../src/identity/refusal.ts";
import { audience, b64, goodClaims, hmacToken, issuer, nowSeconds, rawToken, type TestKey, token } from "./fixtures.ts";

/** Whose tokens are forged, for whom, and when. */
export interface World {
  readonly issuer: string;
  readonly sub: string;
  readonly audience: string;
  readonly nowSeconds: number;
  /** How many seconds a token may be under way before it is looked at: what is too early or too late is so by this much more. */
  readonly slack: number;
  /** Where the attacker listens. */
  readonly evil: string;
}

/** A still clock and no network. */
export const stillWorld: World = {
  issuer,
  sub: "system:serviceaccount:agents:researcher",
  audience,
  nowSeconds,
  slack: 0,
  evil: "https://evil.example",
};

/** A token, and the code that it is refused with. */
export type Case = [name: string, compact: string, code: RefusalCode];

/** One class of the corpus, made anew for a world: its tokens are good there but for the flaw that their names say. */
export type CaseClass = (forge: Forge) => Case[];

/** Makes the tokens of a world. */
export interface Forge extends World {
  readonly token: typeof token;
  readonly claims: (changes?: object) => string;
  readonly header: (changes?: object) => string;
  readonly withHeader: (changes: object) => string;
  readonly unsigned: (head: object, signature?: string) => string;
  readonly hmac: (alg: string, key: TestKey, secret: string | Buffer) => string;
  /** The good token that the others are made of, in its parts. */
  readonly good: {
    readonly header: string;
    readonly payload: string;
    readonly signature: string;
    readonly input: string;
  };
}

export function forge(world: World): Forge {
  const { issuer: iss, sub, audience: aud, nowSeconds: now } = world;
  const base = { iss, sub, aud, iat: now - 30, nbf: now - 30, exp: now + 270 };
  const ofWorld = (changes: object = {}): object => ({ ...base, ...changes });
  const header = (changes: object = {}): string =>
    JSON.stringify({ alg: "ES256", kid: "p256", typ: "JWT", ...changes });
  const claims = (changes: object = {}): string => JSON.stringify(goodClaims(ofWorld(changes)));
  const tokenOf: typeof token = (changes, ...rest) => token(ofWorld(changes), ...rest);
  const [first = "", second = "", third = ""] = tokenOf().split(".");
  return {
    ...world,
    token: tokenOf,
    claims,
    header,
    withHeader: (changes) => rawToken(header(changes), claims()),
    unsigned: (head, signature = "AA") => `${b64(JSON.stringify(head))}.${b64(claims())}.${signature}`,
    hmac: (alg, key, secret) => hmacToken({ alg, kid: key.kid }, goodClaims(ofWorld()), secret),
    good: { header: first, payload: second, signature: third, input: `${first}.${second}` },
  };
}

/** Every text of a token that a careless message could repeat: its parts, and the strings inside them. */
export function textsOf(compact: string, ours: readonly string[]): string[] {
  const parts = compact.length > 10_000 ? [] : compact.split(".").filter((part) => part.length >= 6);
  const inside = parts.flatMap((part) =>
    [
      ...Buffer.from(part, "base64url")
        .toString("latin1")
        .matchAll(/"([^"]{6,})"/g),
    ].map((match) => match[1] ?? ""),
  );
  return [...parts, ...inside].filter((text) => !ours.some((known) => known.includes(text)));
}

/** Words of ours that tokens have too. */
export const ourWords: readonly string[] = [
  "token",
  "header",
  "payload",
  "claims",
  "status_list",
  "token_introspection",
  "authorization_details",
  "events",
  "may_act",
  "content-length",
  "mayfly.dev",
];
