import { isUtf8 } from "node:buffer";
import type { IncomingMessage } from "node:http";
import { type FieldError, invalid, MayflyError } from "../lib/errors.ts";
import { parseStrictJson, StrictJsonError, type StrictJsonLimits, strictJsonLimits } from "../lib/strict-json.ts";
import { clientGone } from "./exchange.ts";
import { parseFlat } from "./flat.ts";

/** The largest body of an endpoint that does not say otherwise. */
export const DEFAULT_BODY_LIMIT_BYTES = 64 * 1024;

const JSON_TYPE = /^application\/json(?:[ \t]*;[ \t]*charset=(?:utf-8|"utf-8"))?[ \t]*$/i;
const FORM_TYPE = /^application\/x-www-form-urlencoded(?:[ \t]*;[ \t]*charset=(?:utf-8|"utf-8"))?[ \t]*$/i;
const MAX_POINTER = 256;
const NOTHING = Buffer.alloc(0);

/**
 * The bytes of the body, as sent. 413 above the limit without keeping what is beyond it; 415 for any content
 * coding (a bomb is never inflated); {@link clientGone} when the caller leaves in the middle.
 */
export function readRawBody(req: IncomingMessage, limitBytes: number): Promise<Buffer> | Buffer {
  const coding = req.headers["content-encoding"];
  if (coding !== undefined && coding.toLowerCase() !== "identity") {
    throw new MayflyError("unsupported_media_type", "send the body without a content coding");
  }
  if (!hasBody(req)) return NOTHING;
  if (Number(req.headers["content-length"]) > limitBytes) throw tooLarge(limitBytes);
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const done = (settle: () => void) => {
      req.off("data", onData).off("end", onEnd).off("close", onClose);
      settle();
    };
    const onData = (chunk: Buffer) => {
      size += chunk.length;
      if (size > limitBytes) done(() => reject(tooLarge(limitBytes)));
      else chunks.push(chunk);
    };
    const onEnd = () => done(() => resolve(chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks, size)));
    const onClose = () => done(() => reject(clientGone));
    // The error listener stays: a reset after the limit was passed must not become an uncaught exception.
    req.on("data", onData).on("end", onEnd).on("close", onClose).on("error", onClose);
  });
}

/** Whether the message has a body by its framing (RFC 9112 §6.3). */
function hasBody(req: IncomingMessage): boolean {
  return req.headers["transfer-encoding"] !== undefined || Number(req.headers["content-length"] ?? 0) > 0;
}

/** The value of a JSON body; undefined for an empty one. Only UTF-8, and only what {@link parseStrictJson} takes. */
export function parseJsonBody(
  contentType: string | undefined,
  raw: Buffer,
  limits: StrictJsonLimits = strictJsonLimits,
): unknown {
  if (raw.length === 0) return undefined;
  if (contentType === undefined || !JSON_TYPE.test(contentType)) {
    throw new MayflyError("unsupported_media_type", "send application/json in UTF-8");
  }
  try {
    return parseStrictJson(textOf(raw), limits);
  } catch (error) {
    // Cut, because a name of the body may be nearly as long as the body.
    if (error instanceof StrictJsonError) throw invalid(error.pointer.slice(0, MAX_POINTER), error.message);
    throw error;
  }
}

/** A form as it was sent, and what is wrong with it. */
export interface Form {
  readonly sent: Readonly<Record<string, string | readonly string[]>>;
  readonly problems: readonly FieldError[];
}

/**
 * The parameters of a form body. RFC 6749 §3.1: none may come twice (but those the endpoint names), and one
 * without a value counts as absent.
 */
export function parseFormBody(contentType: string | undefined, raw: Buffer, repeatable: readonly string[]): Form {
  const problems: FieldError[] = [];
  if (raw.length === 0) return { sent: {}, problems };
  if (contentType === undefined || !FORM_TYPE.test(contentType)) {
    throw new MayflyError("unsupported_media_type", "send application/x-www-form-urlencoded in UTF-8");
  }
  return { sent: parseFlat(textOf(raw), { prefix: "/", repeatable, dropEmpty: true }, problems), problems };
}

function textOf(raw: Buffer): string {
  if (!isUtf8(raw)) throw invalid("", "the body is not UTF-8");
  return raw.toString("utf8");
}

function tooLarge(limitBytes: number): MayflyError {
  return new MayflyError("payload_too_large", `the body may have ${limitBytes} bytes at most`);
}
