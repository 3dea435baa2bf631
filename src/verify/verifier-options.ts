import type { Authorization } from "./broker-http.ts";
import type { ReportProblem } from "./problem.ts";
import type { ReplayStore } from "./replays.ts";
import { metadataUrl } from "./resource-metadata.ts";

/** What an API says of itself and of the broker that it trusts. */
export interface VerifierOptions {
  /** The tenant's issuer, byte for byte: `https://mayfly.example/t/acme`. Plain http for loopback alone. */
  readonly issuer: string;
  /** The API's own identifier, byte for byte as its target has it: `https://tickets.example/api`. */
  readonly audience: string;
  /**
   * The value of the Authorization header with which the API calls the broker, asked for before every request:
   * `Bearer <workload token>`. Without it there is no status stream and no use report: tokens are looked up in status lists.
   */
  readonly authorization?: Authorization;
  /** The URL below which the world sees the API; DPoP proofs are for it. Default: the origin of the audience. */
  readonly publicUrl?: string;
  /** How old, in milliseconds, what is known of revocations may be. Older: calls are refused with 503. Default 10,000. */
  readonly maxStatusAgeMs?: number;
  /** Whether tokens that are bound to nothing are taken. Default false. */
  readonly allowBearer?: boolean;
  /**
   * The URL of the API's own metadata (RFC 9728), for challenges. Default: where RFC 9728 §3.1 puts it, made of the audience;
   * serve it there with `serveMetadata`. An audience that is no https URL has no such place, and challenges name none.
   */
  readonly resourceMetadata?: string;
  /** Whether callers may show certificates to the API, for mTLS-bound tokens. Said in its metadata alone. Default false. */
  readonly clientCertificates?: boolean;
  /** Asks for nonces in DPoP proofs (RFC 9449 §9), made with this key of 32 bytes or more: the same in every replica. */
  readonly nonceKey?: Uint8Array;
  /** Where used DPoP proofs are remembered. Default: in this process, which is enough for a single one. */
  readonly replayStore?: ReplayStore;
  /** Told what an operator should know. It must not throw. Nothing is logged otherwise. */
  readonly onProblem?: ReportProblem;
}

/** The options as they are used, with every default. */
export type CheckedOptions = Required<Omit<VerifierOptions, OptionalAtRuntime>> &
  Partial<Pick<VerifierOptions, OptionalAtRuntime>>;
type OptionalAtRuntime = "authorization" | "resourceMetadata" | "nonceKey" | "replayStore";

const MIN_STATUS_AGE_MS = 1000;
const MIN_NONCE_KEY_BYTES = 32;
/** What may stand between quotes in a challenge (RFC 6750 §3). */
const QUOTABLE = /^[\x21\x23-\x5b\x5d-\x7e]{1,512}$/;

/** Checks the options. Throws a TypeError that says which one is wrong. */
export function checkOptions(options: VerifierOptions): CheckedOptions {
  const { issuer, audience, resourceMetadata, nonceKey, maxStatusAgeMs = 10_000 } = options;
  if (!isIssuer(issuer)) throw new TypeError("issuer must be an https URL without query, fragment and final slash");
  if (typeof audience !== "string" || !QUOTABLE.test(audience)) throw new TypeError("audience must be a URI");
  if (resourceMetadata !== undefined && !(QUOTABLE.test(resourceMetadata) && URL.canParse(resourceMetadata)))
    throw new TypeError("resourceMetadata must be a URL");
  if (!(Number.isSafeInteger(maxStatusAgeMs) && maxStatusAgeMs >= MIN_STATUS_AGE_MS))
    throw new TypeError(`maxStatusAgeMs must be a whole number of at least ${MIN_STATUS_AGE_MS}`);
  if (nonceKey !== undefined && nonceKey.byteLength < MIN_NONCE_KEY_BYTES)
    throw new TypeError(`nonceKey must have at least ${MIN_NONCE_KEY_BYTES} bytes`);
  const metadata = resourceMetadata ?? metadataUrl(audience);
  return {
    ...options,
    ...(metadata === undefined ? {} : { resourceMetadata: metadata }),
    maxStatusAgeMs,
    publicUrl: publicUrlOf(options),
    allowBearer: options.allowBearer === true,
    clientCertificates: options.clientCertificates === true,
    onProblem: options.onProblem ?? (() => {}),
  };
}

function isIssuer(text: unknown): boolean {
  if (typeof text !== "string" || !/^[\x21-\x7e]+$/.test(text) || !URL.canParse(text)) return false;
  const url = new URL(text);
  const loopback = ["localhost", "127.0.0.1", "[::1]"].includes(url.hostname);
  if (url.protocol !== "https:" && !(url.protocol === "http:" && loopback)) return false;
  return !/[?#\\]/.test(text) && !text.endsWith("/") && url.username === "" && url.password === "";
}

function publicUrlOf({ publicUrl, audience }: VerifierOptions): string {
  const text = publicUrl ?? originOf(audience);
  if (text === undefined || originOf(text) === undefined || /[?#]/.test(text))
    throw new TypeError("publicUrl must be the http(s) URL of the API: the audience has no origin to use instead");
  return text.replace(/\/+$/, "");
}

function originOf(text: string): string | undefined {
  if (!/^https?:\/\//.test(text) || !URL.canParse(text)) return undefined;
  return new URL(text).origin;
}
