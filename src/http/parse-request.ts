import { z } from "zod";
import { type FieldError, MayflyError, notFound } from "../lib/errors.ts";
import { strictJsonLimits } from "../lib/strict-json.ts";
import type { Endpoint } from "./endpoint.ts";
import type { Exchange } from "./exchange.ts";
import { parseFlat } from "./flat.ts";
import { type Form, parseFormBody, parseJsonBody } from "./read-body.ts";
import { check } from "./validate.ts";

/** What of a request is parsed. */
export interface ParsedRequest {
  readonly params: unknown;
  readonly query: unknown;
  readonly body: unknown;
}

const nothing = z.strictObject({});
const noBody = nothing.optional();

/**
 * The parser of one endpoint's requests, built once; what was read of a form already is not read again. It answers with everything that is wrong at a time. A path
 * parameter that is not spelled as its schema wants is the same 404 as an id that does not exist.
 */
export function parserOf(endpoint: Endpoint): (exchange: Exchange, raw: Buffer, form?: Form) => ParsedRequest {
  const paramsSchema = endpoint.params ?? nothing;
  const querySchema = endpoint.query ?? nothing;
  const bodySchema = endpoint.body ?? noBody;
  // Caches in front of public documents add parameters of their own; nowhere else is an unknown one let through.
  const anyQuery = endpoint.query === undefined && endpoint.allow === "public" && endpoint.method === "get";
  const isForm = endpoint.bodyKind === "form";
  const repeatable = endpoint.repeatable ?? [];
  const { bodyLimitMembers: maxMembers = strictJsonLimits.maxMembers } = endpoint;
  const limits = { ...strictJsonLimits, maxMembers };

  return ({ req }, raw, read) => {
    const params = paramsSchema.safeParse(req.params);
    if (!params.success) throw notFound();
    const problems: FieldError[] = [];
    const question = req.originalUrl.indexOf("?");
    let query: unknown = {};
    if (!anyQuery && (question >= 0 || endpoint.query !== undefined)) {
      const text = question < 0 ? "" : req.originalUrl.slice(question + 1);
      const flat = parseFlat(text, { prefix: "#/query/" }, problems);
      query = check(querySchema, flat, "#/query", problems);
    }
    const contentType = req.headers["content-type"];
    const form = isForm ? (read ?? parseFormBody(contentType, raw, repeatable)) : undefined;
    problems.push(...(form?.problems ?? []));
    const sent = form === undefined ? parseJsonBody(contentType, raw, limits) : form.sent;
    const body = check(bodySchema, sent, "", problems);
    if (problems.length > 0) {
      throw new MayflyError("invalid_request", "some of what was sent is not acceptable", { errors: problems });
    }
    return { params: params.data, query, body };
  };
}
