/** What leaves: header names in lower case, the body ready. An empty body sends none. */
export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | Uint8Array;
  /** Instead of `body`: what is sent piece by piece, for as long as there is more. */
  readonly stream?: AsyncIterable<string>;
}
