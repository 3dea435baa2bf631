import { hash } from "node:crypto";
import { createNonces } from "../identity/dpop-nonce.ts";
import { type Access, createAccess } from "./access.ts";
import { createAccessTokenCheck } from "./access-token.ts";
import { createBindingCheck } from "./binding.ts";
import { type Call, isRefused, readToken } from "./call.ts";
import { type Clock, systemClock } from "./clock.ts";
import { discover, type IssuerMetadata } from "./discover.ts";
import { createIssuerKeys } from "./issuer-keys.ts";
import { BrokerProblem, sentenceOf } from "./problem.ts";
import { createRefuse, isRefusal } from "./refusal.ts";
import { createReplayStore } from "./replays.ts";
import { type ResourceMetadata, resourceMetadataOf } from "./resource-metadata.ts";
import { createStatusCheck } from "./status.ts";
import { createStatusLists } from "./status-lists.ts";
import { createStatusStream, type StatusStream } from "./status-stream.ts";
import { createUseReports, noUseReports } from "./use-reports.ts";
import { type CheckedOptions, checkOptions, type VerifierOptions } from "./verifier-options.ts";

/** What a health endpoint may show. */
export interface VerifierState {
  /** `off` when the API does not authenticate to the broker. */
  readonly stream: "connected" | "down" | "off";
  /** How old the stream's news is, in milliseconds; null when there is none. */
  readonly statusAgeMs: number | null;
  /** The bound: nothing older than this is believed, except what a status list's own `ttl` allows. */
  readonly boundMs: number;
  /** Use reports that wait for the broker, and how many were given up since the start. */
  readonly uses: { readonly waiting: number; readonly dropped: number };
}

/** Takes Mayfly's access tokens for one API. */
export interface Verifier {
  /** What a call may do. Rejects with `AccessRefused` when it must be refused, and with nothing else. */
  verify(call: Call): Promise<Access>;
  /** What to serve as the API's metadata (RFC 9728), and at which URL; undefined when the audience is no https URL. */
  readonly resourceMetadata: ResourceMetadata | undefined;
  state(): VerifierState;
  /** Ends the stream and delivers the last use reports, for at most two seconds. */
  close(): Promise<void>;
}

/** How long a start waits for the stream. Later its absence is the state `down`, not an error. */
const READY_MS = 3000;
const CLOSE_MS = 2000;

/**
 * Reads the issuer's metadata and keys, and opens the status stream. Rejects with a TypeError for options that cannot be,
 * and with an error that says why when the issuer cannot be read: without its keys no token can be taken.
 */
export async function createVerifier(sent: VerifierOptions, clock: Clock = systemClock): Promise<Verifier> {
  const options = checkOptions(sent);
  const { issuer, audience, maxStatusAgeMs, onProblem, authorization } = options;
  const { metadata, keys } = await readIssuer(options, clock);
  const nonces = options.nonceKey && createNonces(options.nonceKey, clock.wallMs);
  const stream = openStream(options, metadata, clock);
  const uses =
    authorization === undefined || metadata.usesEndpoint === undefined
      ? noUseReports
      : createUseReports({ endpoint: metadata.usesEndpoint, authorization, clock, onProblem });
  const checkToken = createAccessTokenCheck({ issuer, audience, keys, clock });
  const replayStore = options.replayStore ?? createReplayStore(clock.wallMs);
  const checkBinding = createBindingCheck({ ...options, replayStore, nonces, clock });
  const lists = createStatusLists({ issuer, keys, clock, maxAgeMs: maxStatusAgeMs, onProblem });
  const checkStatus = createStatusCheck({ stream, lists, maxAgeMs: maxStatusAgeMs });
  const refuse = createRefuse({
    audience,
    resourceMetadata: options.resourceMetadata,
    allowBearer: options.allowBearer,
    nonce: nonces?.present,
  });
  if (stream !== undefined) await atMost(READY_MS, stream.ready);

  return {
    resourceMetadata: resourceMetadataOf(options),
    async verify(call) {
      const sentToken = readToken(call.headers);
      if (isRefused(sentToken)) throw refuse(sentToken);
      const { scheme, text } = sentToken;
      const tokenHash = hash("sha256", text, "base64url");
      const token = await checkToken(text, tokenHash);
      if (isRefusal(token)) throw refuse(token, scheme);
      const why = (await checkBinding(call, scheme, token, tokenHash)) ?? (await checkStatus(token));
      // A bound token that came as Bearer is told the scheme that it needs.
      if (why !== undefined) throw refuse(why, token.jkt === undefined ? scheme : "DPoP");
      const responseHeaders = nonces === undefined ? {} : { "dpop-nonce": nonces.present() };
      return createAccess(token, { audience, refuse, scheme, uses, responseHeaders });
    },
    state() {
      const age = stream?.ageMs() ?? Number.POSITIVE_INFINITY;
      return {
        stream: authorization === undefined ? "off" : stream?.isConnected() === true ? "connected" : "down",
        statusAgeMs: Number.isFinite(age) ? Math.max(0, Math.round(age)) : null,
        boundMs: maxStatusAgeMs,
        uses: uses.state(),
      };
    },
    async close() {
      stream?.close();
      keys.close();
      await uses.close(CLOSE_MS);
    },
  };
}

async function readIssuer(
  { issuer, onProblem }: CheckedOptions,
  clock: Clock,
): Promise<{ metadata: IssuerMetadata; keys: ReturnType<typeof createIssuerKeys> }> {
  try {
    const metadata = await discover(issuer);
    const keys = createIssuerKeys(metadata.jwksUri, clock, onProblem);
    await keys.load().catch((error: unknown) => {
      keys.close();
      throw error;
    });
    return { metadata, keys };
  } catch (error) {
    throw new BrokerProblem(`the issuer cannot be read: ${sentenceOf(error)}`);
  }
}

function openStream(
  { audience, authorization, onProblem }: CheckedOptions,
  { statusEventsEndpoint: endpoint }: IssuerMetadata,
  clock: Clock,
): StatusStream | undefined {
  if (authorization === undefined) return undefined;
  if (endpoint === undefined) {
    onProblem({ code: "stream_down", detail: "the issuer's metadata has no mayfly_status_events_endpoint" });
    return undefined;
  }
  return createStatusStream({ endpoint, audience, authorization, clock, onProblem });
}

async function atMost(milliseconds: number, work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, milliseconds);
  });
  await Promise.race([work, limit]);
  clearTimeout(timer);
}
