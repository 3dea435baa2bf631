import { AwsV4Signer } from "aws4fetch";
import { MayflyError } from "../lib/errors.ts";
import { childOf, parseXml, type Xml } from "./aws-xml.ts";
import { openTargetConnections, refusalOf } from "./target-fetch.ts";

/** The long-lived key that requests are signed with. There is no other source: no environment, no profile, no metadata service. */
interface AwsKey {
  readonly access_key_id: string;
  readonly secret_access_key: string;
}

interface AwsService {
  /** Where it answers, an origin. */
  readonly endpoint: string;
  /** As the signature names it. */
  readonly service: "sts" | "iam";
  readonly region: string;
  readonly key: AwsKey;
}

/**
 * What AWS itself said: the result, or an error that it names. `at` is AWS's clock in milliseconds (whole seconds, rounded
 * down), undefined when it did not tell.
 */
export type AwsAnswer = Done | AwsRefusal;

interface Done {
  readonly refused: false;
  readonly result: Xml;
  readonly at: number | undefined;
}

interface AwsRefusal {
  readonly refused: true;
  readonly code: string;
  /** What AWS says about it. To be searched, never to be shown: it quotes the request. */
  readonly message: string;
  readonly at: number | undefined;
  readonly error: MayflyError;
}

/** Connections to one AWS service, for one sort of work. */
export interface AwsConnections extends AsyncDisposable {
  /** Asks once, without a retry. Throws what is no answer of AWS: silence, a proxy's page, another shape. */
  ask(action: string, parameters: Readonly<Record<string, string>>, signal: AbortSignal): Promise<AwsAnswer>;
}

const VERSIONS = { sts: "2011-06-15", iam: "2010-05-08" } as const;

/** Errors after which the very same request may succeed. */
const PASSING = new Set(
  "Throttling ThrottlingException RequestLimitExceeded TooManyRequestsException ServiceUnavailable InternalFailure InternalError ServiceFailure RequestTimeout ConcurrentModification EntityTemporarilyUnmodifiable LimitExceeded".split(
    " ",
  ),
);
/** The others that are told by name. Any other name is the far side's text, and is not. */
const LASTING = new Set(
  "AccessDenied InvalidClientTokenId SignatureDoesNotMatch IncompleteSignature MissingAuthenticationToken OptInRequired ExpiredToken ValidationError MalformedPolicyDocument PackedPolicyTooLarge RegionDisabledException NoSuchEntity UnmodifiableEntity InvalidInput".split(
    " ",
  ),
);

/** AWS's query protocol (a signed form in, XML out) over the one way in which issuers speak HTTP. */
export function openAws({ endpoint, service, region, key }: AwsService): AwsConnections {
  const called = service === "sts" ? "AWS STS" : "AWS IAM";
  const { origin } = new URL(endpoint);
  const connections = openTargetConnections({ origin, called });
  return {
    async ask(action, parameters, signal) {
      const body = new URLSearchParams({ Action: action, Version: VERSIONS[service], ...parameters }).toString();
      const signed = await new AwsV4Signer({
        method: "POST",
        url: `${origin}/`,
        headers: { "content-type": "application/x-www-form-urlencoded; charset=utf-8" },
        body,
        accessKeyId: key.access_key_id,
        secretAccessKey: key.secret_access_key,
        service,
        region,
      }).sign();
      const response = await connections.fetch(signed.url, { method: "POST", headers: signed.headers, body, signal });
      return read(response, await response.text(), action, called);
    },
    [Symbol.asyncDispose]: () => connections[Symbol.asyncDispose](),
  };
}

function read(response: Response, text: string, action: string, called: string): AwsAnswer {
  const xml = parseXml(text);
  const told = Date.parse(response.headers.get("date") ?? "");
  const at = Number.isNaN(told) ? undefined : told;
  const result = xml?.name === `${action}Response` && response.ok ? xml : undefined;
  if (result !== undefined) return { refused: false, result, at };
  const error = xml?.name === "ErrorResponse" && !response.ok ? childOf(xml, "Error") : undefined;
  const code = childOf(error, "Code")?.text;
  if (code === undefined) {
    if (!response.ok) throw refusalOf(response, called);
    throw new MayflyError("target_unavailable", `${called} answered something else than asked`);
  }
  const message = childOf(error, "Message")?.text ?? "";
  return { refused: true, code, message, at, error: errorOf(response, code, called) };
}

function errorOf(response: Response, code: string, called: string): MayflyError {
  const usual = refusalOf(response, called, PASSING.has(code) || LASTING.has(code) ? code : "an error unknown here");
  // AWS throttles with a 400.
  if (usual.code === "target_unavailable" || !PASSING.has(code)) return usual;
  return new MayflyError("target_unavailable", usual.detail);
}

/** The result, or the refusal thrown. */
export function resultOf(answer: AwsAnswer): Xml {
  if (answer.refused) throw answer.error;
  return answer.result;
}
