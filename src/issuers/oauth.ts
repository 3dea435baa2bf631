import { MayflyError } from "../lib/errors.ts";
import { Secret } from "../lib/secret.ts";
import { defineIssuer, type Issued, type IssueRequest, type ProbeResult } from "./issuer.ts";
import { type OauthLane, oauthRefusal, openLanes, readRecord, SERVER } from "./oauth-client.ts";
import { askedToken, type OauthAccess, type OauthConfig, oauthAccess, oauthConfig } from "./oauth-config.ts";
import { inspectOauth } from "./oauth-inspect.ts";
import { checked, look, NO_TOKEN, type OauthHandle, oauthHandle, takeBack, tokensIn } from "./oauth-token.ts";
import type { TwoLanes } from "./two-lanes.ts";
import { untilAlive } from "./until-alive.ts";

interface Target extends TwoLanes<OauthLane> {
  readonly config: OauthConfig;
}

const TAKE_BACK_MS = 5_000;

/**
 * An access token of a downstream authorization server, narrowed by scope and resource; taken back at its revocation endpoint
 * (RFC 7009) and looked at by introspection (RFC 7662) or by use.
 */
export const oauthIssuer = defineIssuer({
  kind: "oauth",
  config: oauthConfig,
  access: oauthAccess,
  handle: oauthHandle,
  secretConfig: ["client_secret", "private_key", "refresh_token", "subject_token"],
  identityConfig: ["issuer", "client_id", "revocation", "max_token_seconds"],

  // The server chooses the end; that it is not later than this is checked of each token.
  bounds: ({ revocation, max_token_seconds: max }) => ({
    ttlSeconds: { min: 1, max },
    revocability: revocation === "none" ? "expiry" : "immediate",
    backstopSeconds: max,
    // RFC 7009 §2: at once, or after a short time at servers that are many.
    effectiveBoundSeconds: 5,
  }),

  connect: async (target: OauthConfig): Promise<Target> => ({ ...(await openLanes(target)), config: target }),

  // The server gives tokens no name, so the name is ours alone.
  name: (credentialId) => ({
    downstreamName: `mfy_${credentialId.slice(credentialId.indexOf("_") + 1)}`,
    handle: {} as OauthHandle,
  }),

  issue,
  async revoke(target: Target, kept, signal) {
    await takeBack(target.revoke, kept, signal);
    return {};
  },

  /** A credential without a token was never active: `issue` keeps the token before it hands it out. */
  async probe(target: Target, { token }, signal): Promise<ProbeResult> {
    if (token !== undefined) return look(target.revoke, target.config, token, signal);
    const seen = await look(target.revoke, target.config, NO_TOKEN, signal);
    if (seen.outcome !== "dead") return { ...seen, outcome: "unknown" };
    return {
      outcome: "dead",
      by: "never_kept",
      detail: "no token was kept, so none was handed out; one that was lost ends by itself",
    };
  },

  inspect: (target: Target, access, signal) => inspectOauth(target.revoke, target.config, access, signal),
});

async function issue(target: Target, request: IssueRequest<OauthAccess, OauthHandle>): Promise<Issued> {
  const { config, mint } = target;
  const asked = askedToken(request.access, "target_rejected");
  const withinMs = Math.floor(request.createWithinMs);
  const signal = AbortSignal.any([request.signal, AbortSignal.timeout(Math.max(withinMs, 0))]);
  if (withinMs <= 0) throw new MayflyError("target_unavailable", `there was no time left to ask ${SERVER}`);
  // Read before, so that the end errs on the early side.
  const askedAt = Date.now();
  const response = await mint.token(asked, signal);
  if (!response.ok) throw await oauthRefusal(response);
  const given = tokensIn(await readRecord(response.clone()), config);
  const { token } = given;
  if (token === undefined) throw new MayflyError("target_rejected", `${SERVER} answered without an access token`);
  try {
    await request.keep(given);
    const { expiresIn, scope } = await checked(mint, response, config, asked, given);
    const endsAt = new Date(askedAt + expiresIn * 1000);
    if (config.revocation === "required") await untilAlive(SERVER, () => look(mint, config, token, signal), signal);
    return {
      secret: { access_token: new Secret(token), token_type: "Bearer", scope },
      ...(endsAt < request.expiresAt ? { expiresAt: endsAt } : {}),
    };
  } catch (error) {
    // Nobody has it. The handle may have been kept or not, so this is the last that is sure to know it.
    if (config.revocation === "required")
      await takeBack(target.revoke, given, AbortSignal.timeout(TAKE_BACK_MS)).catch(() => undefined);
    throw error;
  }
}
