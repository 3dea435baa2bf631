/**
 * Something that the operator of the API should know: none of it fails a call by itself. `detail` is in our own words
 * and holds nothing of what a caller or the broker sent. Codes are stable:
 * - `stream_down`: the status stream ended or could not be opened; it is tried again
 * - `list_not_read`: a status list could not be fetched or was refused
 * - `keys_not_refreshed`: the issuer's keys could not be read again; the ones held stay for an hour
 * - `uses_not_sent`: use reports could not be delivered; they are tried again
 * - `uses_dropped`: use reports were given up; `count` says how many
 */
export interface Problem {
  readonly code: "stream_down" | "list_not_read" | "keys_not_refreshed" | "uses_not_sent" | "uses_dropped";
  readonly detail: string;
  readonly count?: number;
}

export type ReportProblem = (problem: Problem) => void;

/** What went wrong with the broker's side, as data. Its message is ours: it never quotes an answer or a foreign error. */
export class BrokerProblem extends Error {
  /** The HTTP status, when there was an answer. */
  readonly status: number | undefined;

  constructor(message: string, status?: number) {
    super(message);
    this.name = "BrokerProblem";
    this.status = status;
  }
}

/** A sentence about any error. Foreign ones give their code alone: their message may quote a URL, a header or a token. */
export function sentenceOf(error: unknown): string {
  if (error instanceof BrokerProblem) return error.message;
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    if ("code" in cause && typeof cause.code === "string" && /^[A-Z_]{2,40}$/.test(cause.code))
      return `the issuer could not be reached (${cause.code})`;
  }
  return "the issuer could not be reached";
}
