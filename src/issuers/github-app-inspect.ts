import { MayflyError } from "../lib/errors.ts";
import { clockOf, GITHUB, type GithubAnswer, type GithubLane, githubRefusal } from "./github-app-client.ts";
import { covers, type GithubAccess, type GithubScope, isRecord, scopeOf } from "./github-app-scope.ts";

interface Installed {
  readonly client_id: string;
  readonly installation_id: number;
}

/** A mint is told to GitHub with the second after which it is too late. */
const CLOCKS_MAY_DIFFER_MS = 3_000;
const ASK_AT_ONCE = 4;

/**
 * Checks that the app is who the target says, that clocks agree, and that its installation grants what is asked. Throws
 * `target_refused` with the setting to change.
 */
export async function inspectGithub(
  lane: GithubLane,
  target: Installed,
  access: readonly GithubAccess[],
  signal: AbortSignal,
): Promise<void> {
  const scope = scopeOf(access, "target_refused");
  const app = await lane.asApp({ method: "GET", path: "/app", signal });
  if (!isApp(app, target.client_id))
    throw refused(app, "it does not know the app: check client_id, private_key (one of the app's own) and api_url");
  const apart = Math.abs((clockOf(app.response.headers) ?? Date.now()) - Date.now());
  if (apart > CLOCKS_MAY_DIFFER_MS)
    throw new MayflyError(
      "target_refused",
      `the clock of this machine is ${Math.round(apart / 1000)} s off GitHub's: synchronise it (NTP)`,
    );
  const path = `/app/installations/${target.installation_id}`;
  const installation = await lane.asApp({ method: "GET", path, signal });
  if (installation.response.status !== 200)
    throw refused(installation, `the app has no installation ${target.installation_id}: install it, and take its id`);
  checkInstallation(installation.body, scope);
  await checkRepositories(lane, target, installation.body, scope, signal);
}

/** Whether this is GitHub's answer to the app of this client id (or app id). */
export function isApp({ response, body }: GithubAnswer, clientId: string): boolean {
  return response.status === 200 && (body.client_id === clientId || String(body.id) === clientId);
}

function checkInstallation(installation: Readonly<Record<string, unknown>>, scope: GithubScope): void {
  const { suspended_at: suspendedAt, permissions } = installation;
  if (suspendedAt !== null && suspendedAt !== undefined)
    throw new MayflyError(
      "target_refused",
      "the installation is suspended: unsuspend it under Settings, GitHub Apps, Configure",
    );
  const granted = isRecord(permissions) ? permissions : {};
  const missing = Object.entries(scope.permissions).filter(([name, level]) => !covers(granted[name], level));
  if (missing.length > 0)
    throw new MayflyError(
      "target_refused",
      `the installation does not grant ${missing.map((one) => one.join(": ")).join(", ")}: set it in the app's settings ` +
        "under Permissions & events, and have the owner of the installation accept the change",
    );
}

/** By name alone: GitHub documents no way to ask for an id. For those the canary asks. */
async function checkRepositories(
  lane: GithubLane,
  { installation_id }: Installed,
  { account }: Readonly<Record<string, unknown>>,
  { repositories }: GithubScope,
  signal: AbortSignal,
): Promise<void> {
  const owner = isRecord(account) && typeof account.login === "string" ? account.login : "";
  const left = [...repositories];
  // A few at a time: a question's time limit counts while it waits for a connection, too.
  const asker = async (): Promise<void> => {
    for (let name = left.shift(); name !== undefined; name = left.shift()) {
      const path = `/repos/${encodeURIComponent(owner)}/${encodeURIComponent(name)}/installation`;
      const answer = await lane.asApp({ method: "GET", path, signal });
      if (answer.response.status === 200 && answer.body.id === installation_id) continue;
      throw refused(
        answer,
        `the installation does not reach the repository ${name}: add it under Settings, GitHub Apps, Configure, Repository access`,
      );
    }
  };
  await Promise.all(Array.from({ length: ASK_AT_ONCE }, asker));
}

/** A limit or an outage is no fault of the settings. */
function refused(answer: GithubAnswer, remedy: string): MayflyError {
  const error = githubRefusal(answer);
  return error.retryable ? error : new MayflyError("target_refused", `${GITHUB}: ${remedy}`);
}
