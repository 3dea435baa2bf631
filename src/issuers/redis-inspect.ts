import { MayflyError } from "../lib/errors.ts";
import type { RedisAccess } from "./redis-access.ts";
import type { Command, Connection } from "./redis-client.ts";

/** Everything that the admin's user needs, as it is checked: each with arguments that would change nothing. */
const NEEDED: readonly Command[] = [
  ["acl", "setuser", "nobody"],
  ["acl", "getuser", "nobody"],
  ["acl", "deluser", "nobody"],
  ["acl", "users"],
  ["acl", "save"],
  ["acl", "cat"],
  ["client", "setname", "mayfly"],
  ["client", "list"],
  ["client", "kill", "id", "0"],
  ["command", "info", "get"],
  ["multi"],
  ["exec"],
];
const nameOf = ([name, sub]: Command): string => (sub === undefined ? name : `${name}|${sub}`);
/** The right to ask for rights. */
const ASKING = "acl|dryrun";

/** What the administrator runs once on each node, and no right more. The documentation shows this very text. */
export function adminSetup(user: string, passwordSha256 = "<SHA-256 of its password>"): string {
  const commands = [...NEEDED.map(nameOf), ASKING].map((name) => `+${name}`).join(" ");
  return `ACL SETUSER ${user} reset on #${passwordSha256} resetkeys resetchannels -@all ${commands}`;
}

/** Whether Mayfly can mint and take back on this node. Throws `target_refused` with the command that puts it right. */
export async function inspectRedis(
  connection: Connection,
  user: string,
  access: readonly RedisAccess[],
): Promise<void> {
  const [hello] = await connection.ask(["HELLO"]);
  checkServer(pairs(hello));
  await checkAdmin(connection, user);
  const [open] = await connection.ask(["ACL", "GETUSER", "default"]);
  const flags = pairs(open).get("flags");
  if (Array.isArray(flags) && flags.includes("on") && flags.includes("nopass")) {
    throw refused("anybody may log in as the default user: ACL SETUSER default off");
  }
  await checkCommands(connection, access);
  await connection.ask(["ACL", "SAVE"]).catch((error: unknown) => {
    if (error instanceof Error && error.message.includes("not configured to use an ACL file")) {
      throw refused(
        "Redis keeps no ACL file, so a restart would undo what was taken back: set aclfile in redis.conf and restart it",
      );
    }
    throw error;
  });
}

function checkServer(hello: ReadonlyMap<string, unknown>): void {
  const version = String(hello.get("version"));
  if (hello.get("mode") === "sentinel") throw refused("this is a Sentinel: register the nodes that it watches");
  if (!(Number.parseInt(version, 10) >= 7)) throw refused("Redis 7.0 or newer is needed, or Valkey");
}

async function checkAdmin(connection: Connection, user: string): Promise<void> {
  const missing: string[] = [];
  for (const command of NEEDED) {
    const [answer] = await connection.ask(["ACL", "DRYRUN", user, ...command]).catch((error: unknown) => {
      if (error instanceof Error && error.message.startsWith("NOPERM")) throw lacks(user, [ASKING]);
      throw error;
    });
    if (answer !== "OK") missing.push(nameOf(command));
  }
  if (missing.length > 0) throw lacks(user, missing);
}

function lacks(user: string, rights: readonly string[]): MayflyError {
  const grants = rights.map((right) => `+${right}`).join(" ");
  return refused(`the admin may not run ${rights.join(", ")}: ACL SETUSER ${user} ${grants}`);
}

const POWERFUL = ["@admin", "@dangerous", "@scripting"];

async function checkCommands(connection: Connection, access: readonly RedisAccess[]): Promise<void> {
  const wanted = [...new Set(access.flatMap(({ commands }) => commands))].sort();
  const [known] = await connection.ask(["ACL", "CAT"]);
  for (const name of wanted.filter((one) => one.startsWith("@"))) {
    if (!Array.isArray(known) || !known.includes(name.slice(1))) throw refused(`the server does not know ${name}`);
  }
  for (const name of wanted.filter((one) => !one.startsWith("@"))) {
    const [infos] = await connection.ask(["COMMAND", "INFO", name]);
    const info: unknown = Array.isArray(infos) ? infos[0] : undefined;
    if (!Array.isArray(info)) throw refused(`the server does not know the command ${name}`);
    const categories: unknown = info[6];
    const powerful = POWERFUL.find((one) => Array.isArray(categories) && categories.includes(one));
    if (powerful !== undefined) throw refused(`the command ${name} is ${powerful} there: take it out of the access`);
  }
}

/** A map as RESP2 has it. */
function pairs(answer: unknown): ReadonlyMap<string, unknown> {
  const flat: readonly unknown[] = Array.isArray(answer) ? answer : [];
  return new Map(flat.flatMap((name, index) => (index % 2 === 0 ? [[String(name), flat[index + 1]] as const] : [])));
}

function refused(detail: string): MayflyError {
  return new MayflyError("target_refused", detail);
}
