import type { IncomingMessage } from "node:http";
import { oauthError } from "../lib/oauth-error.ts";
import type { RequestFacts } from "./endpoint.ts";
import type { Form } from "./read-body.ts";

/**
 * Who the form says the caller is (RFC 7521 §4.2, RFC 8705 §2), for authenticating before anything else in the form is
 * looked at: an assertion, or a `client_id` that a certificate has to prove. No member when it says nothing. Throws
 * `invalid_request` for half of an assertion, and for a second way to authenticate beside (RFC 6749 §2.3). A certificate
 * beside an assertion is no such way: it is what the token gets bound to. What else is wrong with the form is left to
 * whoever parses it.
 */
export function clientOf(
  req: IncomingMessage,
  { sent: parameters }: Form,
  hasCertificate: boolean,
): Pick<RequestFacts, "client" | "clientId"> {
  // None of the three may be repeated, so each is one text.
  const sent = parameters as Partial<Record<string, string>>;
  const { client_assertion: assertion, client_assertion_type: type, client_id: clientId } = sent;
  const byHeader = req.headers.authorization !== undefined;
  if (assertion === undefined && type === undefined) {
    if (clientId === undefined || (byHeader && !hasCertificate)) return {};
    if (byHeader)
      throw oauthError("invalid_request", "authenticate in one way: by Authorization, or by client_id and certificate");
    return { clientId };
  }
  if (assertion === undefined || type === undefined)
    throw oauthError("invalid_request", "client_assertion and client_assertion_type are needed, once each");
  if (byHeader) throw oauthError("invalid_request", "authenticate in one way: by Authorization or by client_assertion");
  return { client: { type, assertion, clientId } };
}
