import type { IncomingMessage } from "node:http";
import type { ClientAssertion } from "../identity/principal.ts";
import type { FieldError } from "../lib/errors.ts";
import { oauthError } from "../lib/oauth-error.ts";
import { parseFormBody } from "./read-body.ts";

/**
 * The client assertion of a form (RFC 7521 §4.2), for authenticating before anything else in the form is looked at. No
 * member when it has none. Throws `invalid_request` for half of one, and for a second way to authenticate beside it
 * (RFC 6749 §2.3). What else is wrong with the form is left to whoever parses it.
 */
export function clientAssertionOf(req: IncomingMessage, form: Buffer): { client?: ClientAssertion } {
  const problems: FieldError[] = [];
  const sent = parseFormBody(req.headers["content-type"], form, [], problems) as Partial<Record<string, string>>;
  const { client_assertion: assertion, client_assertion_type: type, client_id: clientId } = sent;
  if (assertion === undefined && type === undefined) return {};
  if (assertion === undefined || type === undefined)
    throw oauthError("invalid_request", "client_assertion and client_assertion_type are needed, once each");
  if (req.headers.authorization !== undefined)
    throw oauthError("invalid_request", "authenticate in one way: by Authorization or by client_assertion");
  return { client: { type, assertion, clientId } };
}
