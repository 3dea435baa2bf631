import * as oauth from "oauth4webapi";
import { z } from "zod";
import { MayflyError } from "../lib/errors.ts";
import type { ProbeResult } from "./issuer.ts";
import { ACCESS_TOKEN_TYPE, type OauthLane, oauthRefusal, readRecord, SERVER } from "./oauth-client.ts";
import { type AskedToken, type OauthConfig, tokenText } from "./oauth-config.ts";

/** Only who presents a token can take it back or ask after it (invariant 11's one exception). */
export const oauthHandle = z.strictObject({
  /** Absent: none was kept, so none was handed out. */
  token: tokenText.optional(),
  /** One that came along unasked. It is taken back too. */
  refresh_token: tokenText.optional(),
});

export type OauthHandle = z.output<typeof oauthHandle>;

/** Presented where there is no token, so that a server that does not know us says so. */
export const NO_TOKEN = "mayfly-has-kept-no-token";

/** Everything in an answer that lives on. Looked for before the answer is judged, so that what it holds can be taken back. */
export function tokensIn(body: Readonly<Record<string, unknown>>, config: OauthConfig): OauthHandle {
  const [access, refresh] = [tokenText.safeParse(body.access_token), tokenText.safeParse(body.refresh_token)];
  return {
    ...(access.success ? { token: access.data } : {}),
    ...(refresh.success && refresh.data !== config.refresh_token ? { refresh_token: refresh.data } : {}),
  };
}

/** Throws `target_rejected` unless the answer is what was asked for or less. */
export async function checked(
  lane: OauthLane,
  response: Response,
  config: OauthConfig,
  asked: AskedToken,
  given: OauthHandle,
): Promise<{ readonly expiresIn: number; readonly scope: string }> {
  const server = { issuer: config.issuer };
  // Its errors hold the answer, the token in it.
  const told = await oauth.processGenericTokenEndpointResponse(server, lane.client, response).catch(() => undefined);
  if (told === undefined) throw rejected("answered with something that is no answer to a token request");
  if (told.token_type !== "bearer") throw rejected("made a token that is not a bearer's, which nobody here could use");
  if (config.grant === "token_exchange" && told.issued_token_type !== ACCESS_TOKEN_TYPE)
    throw rejected("exchanged for something that is no access token");
  if (given.refresh_token !== undefined)
    throw rejected(
      config.grant === "refresh_token"
        ? "replaces the refresh token at its use: have it issue one that stays, and register that"
        : "gave a refresh token, too, which was not asked for",
    );
  // Absent, it is what was asked for (RFC 6749 §5.1).
  const scope = told.scope ?? asked.scope.join(" ");
  if (scope.split(" ").some((one) => one !== "" && !asked.scope.includes(one)))
    throw rejected("made a token with a scope that was not asked for");
  if (told.expires_in === undefined || told.expires_in > config.max_token_seconds || told.expires_in <= 0)
    throw rejected("made a token that lives longer than max_token_seconds or not at all, or does not say how long");
  return { expiresIn: told.expires_in, scope };
}

function rejected(what: string): MayflyError {
  return new MayflyError("target_rejected", `${SERVER} ${what}`);
}

/** RFC 7009: what the server does not know (any more) is a success. Whether it is one is the probe's to say. */
export async function takeBack(
  lane: OauthLane,
  { token = NO_TOKEN, refresh_token }: OauthHandle,
  signal: AbortSignal,
): Promise<void> {
  const answers = [await lane.revoke(token, "access_token", signal)];
  if (refresh_token !== undefined) answers.push(await lane.revoke(refresh_token, "refresh_token", signal));
  for (const answer of answers) if (answer.status !== 200) throw await oauthRefusal(answer);
}

/** Looks whether a token still works: by use, where there is an API to use it at, else in the server's own records. */
export async function look(
  lane: OauthLane,
  config: OauthConfig,
  token: string,
  signal: AbortSignal,
): Promise<ProbeResult> {
  const by = config.probe_url === undefined ? "introspection" : "use_of_token";
  try {
    if (config.probe_url === undefined) return { by, ...(await introspected(lane, token, signal)) };
    return { by, ...used(await lane.use(config.probe_url, token, signal)) };
  } catch (error) {
    return { outcome: "unknown", by, detail: error instanceof MayflyError ? error.detail : `${SERVER} did not say` };
  }
}

async function introspected(lane: OauthLane, token: string, signal: AbortSignal): Promise<Omit<ProbeResult, "by">> {
  const response = await lane.introspect(token, signal);
  if (response.status !== 200) throw await oauthRefusal(response);
  const { active } = await readRecord(response);
  const outcome = active === true ? "alive" : active === false ? "dead" : "unknown";
  return { outcome, detail: outcome === "unknown" ? `${SERVER} did not say` : `active is ${active === true}` };
}

/** RFC 6750 §3.1: `invalid_token` is expired, revoked or unknown. A 401 without it may be of anything in between. */
function used({ ok, status, headers }: Response): Omit<ProbeResult, "by"> {
  const dead =
    status === 401 && /(?:^|,\s*)Bearer\s[^]*\berror="?invalid_token\b/i.test(headers.get("www-authenticate") ?? "");
  return {
    outcome: ok ? "alive" : dead ? "dead" : "unknown",
    detail: `the API answered ${status}${dead ? ", invalid_token" : ""}`,
  };
}
