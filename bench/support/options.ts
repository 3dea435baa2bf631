/** What the command line asks of a benchmark. */
export interface BenchOptions {
  readonly seconds: number;
  readonly rounds: number;
  readonly connections: number;
  readonly ttl: number;
  readonly singleUse: boolean;
  readonly peerToken: "jwt" | "opaque";
  readonly issuer: string | undefined;
  readonly n: number | undefined;
  /** How long a soak lasts. */
  readonly minutes: number;
  /** Where the queue of a soak is. */
  readonly queue: "postgres" | "redis";
  readonly profile: boolean;
}
