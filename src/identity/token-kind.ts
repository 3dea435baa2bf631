import { isSelfIssued } from "./client-assertion.ts";
import { type DecodedToken, shortType } from "./decode-token.ts";
import { type Refusal, refuse } from "./refusal.ts";
import type { TokenSource } from "./trust-source.ts";

/** Explicit types (RFC 8725 §3.11) of tokens that are not a proof of identity, and what they are called. */
const otherKinds: Readonly<Record<string, string>> = {
  "client-authentication+jwt": "a client assertion",
  "at+jwt": "an access token",
  "dpop+jwt": "a DPoP proof",
  "secevent+jwt": "a security event",
  "logout+jwt": "a logout token",
  "statuslist+jwt": "a status list",
  "token-introspection+jwt": "an introspection response",
  "wit+jwt": "a workload identity token that needs a proof of possession",
  "wpt+jwt": "a workload proof",
  "txntoken+jwt": "a transaction token",
  "oauth-id-jag+jwt": "an identity assertion authorization grant",
  "oauth-authz-req+jwt": "an authorization request",
  "entity-statement+jwt": "an entity statement",
  "kb+jwt": "a key binding proof",
  "dc+sd-jwt": "a verifiable credential",
  "vc+sd-jwt": "a verifiable credential",
  "openid4vci-proof+jwt": "a credential request proof",
};

/** Claims that only those tokens have, for issuers that leave `typ` out. `act` and `may_act` are set by Mayfly alone. */
const otherKindClaims: Readonly<Record<string, string>> = {
  htm: "a DPoP proof",
  htu: "a DPoP proof",
  wth: "a workload proof",
  events: "a security event or a logout token",
  status_list: "a status list",
  token_introspection: "an introspection response",
  tctx: "a transaction token",
  rctx: "a transaction token",
  authorization_details: "an access token",
  act: "a delegated token",
  may_act: "a delegated token",
  _sd: "a verifiable credential",
  vct: "a verifiable credential",
};

/**
 * Refuses a token that was made for something else, by its `typ` and by the claims that give it away. Of explicit
 * types `JWT` is accepted, for SPIFFE also `JOSE` (JWT-SVID §2.3), an access token's where the source says that those are
 * for Mayfly and a token is `asked` for, and the type of client assertions where one is and a registered key made it for
 * itself (rfc7523bis). An absent `typ` is accepted: most workload issuers send none.
 */
export function checkKind(
  token: DecodedToken,
  source: TokenSource,
  asked: "token" | "client assertion",
): Refusal | undefined {
  const claim = Object.keys(otherKindClaims).find((name) => Object.hasOwn(token.claims, name));
  if (claim !== undefined) {
    return refuse(
      "token_kind_confused",
      `the claim ${claim} belongs to ${otherKindClaims[claim]}, not to a proof of identity`,
    );
  }
  if (token.typ === undefined) return undefined;
  if (source.kind === "spiffe" && (token.typ === "JWT" || token.typ === "JOSE")) return undefined;
  const typ = shortType(token.typ);
  if (source.kind !== "spiffe" && typ === "jwt") return undefined;
  const registered = source.kind === "key_set" || source.kind === "jwks_uri";
  if (typ === "at+jwt" && "access_tokens" in source && source.access_tokens && asked === "token") return undefined;
  const asserts = asked === "client assertion" && registered && isSelfIssued(token.claims, source);
  if (asserts && typ === "client-authentication+jwt") return undefined;
  return Object.hasOwn(otherKinds, typ)
    ? refuse("token_kind_confused", `this is ${otherKinds[typ]}, not a proof of identity`)
    : refuse("token_typ_not_allowed", "the header's typ is not one of a proof of identity: leave it out, or send JWT");
}
