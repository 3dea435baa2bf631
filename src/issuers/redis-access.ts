import { z } from "zod";
import { eachOnce } from "./several.ts";

/** Begins with a name, so that it is never everything; few stars, because matching many of them stops the server (CVE-2024-31228). */
const pattern = z
  .string()
  .regex(/^[A-Za-z0-9_{][A-Za-z0-9_.:{}/?*-]{0,127}$/, "a name, with * and ? after its first character")
  .refine((text) => (text.match(/\*/g) ?? []).length <= 4, "at most four stars")
  .refine((text) => !RULES.has(text.toLowerCase()), "a word of the ACL language");

const RULES = new Set(
  "on off nopass reset resetpass resetkeys resetchannels allkeys allchannels allcommands nocommands clearselectors sanitize-payload skip-sanitize-payload".split(
    " ",
  ),
);

/** What reaches keys that are in no pattern is taken out of these on the server: see `NEVER`. */
const CATEGORIES = [
  "@read",
  "@write",
  "@string",
  "@hash",
  "@list",
  "@set",
  "@sortedset",
  "@stream",
  "@bitmap",
  "@hyperloglog",
  "@geo",
  "@pubsub",
  "@transaction",
] as const;

/** Commands with power over the server, over other clients, or over keys and channels that they do not name. */
const REFUSED = new Set(
  `acl asking auth bgrewriteaof bgsave client cluster config debug dump eval eval_ro evalsha evalsha_ro failover fcall fcall_ro
  flushall flushdb function hotkeys info keys lastsave latency memory migrate module monitor move pfdebug pfselftest psync
  pubsub randomkey replconf replicaof reset restore restore-asking role save scan script sentinel shutdown slaveof slowlog sort
  sort_ro swapdb sync`.split(/\s+/),
);
/** What libraries say of themselves. */
const OF_CLIENTS = new Set(["client|setname", "client|setinfo", "client|getname", "client|id"]);

const command = z
  .string()
  .regex(
    /^(@[a-z]{1,20}|[a-z][a-z0-9_.-]{0,31}(\|[a-z][a-z0-9_-]{0,31})?)$/,
    "a command, command|subcommand or @category",
  )
  .refine(
    (name) => !name.startsWith("@") || (CATEGORIES as readonly string[]).includes(name),
    `one of ${CATEGORIES.join(" ")}`,
  )
  .refine(
    (name) => OF_CLIENTS.has(name) || !REFUSED.has(name.split("|")[0] ?? ""),
    "a command with power over more than its keys",
  );

/** What one resource means for one action. */
export const redisAccess = z
  .strictObject({
    /** Keys by glob pattern. `read` and `write` are what Redis counts as such for each command. */
    keys: z.array(z.strictObject({ pattern, mode: z.enum(["read", "write", "readwrite"]) })).max(32),
    /** Channels of publish and subscribe, by glob pattern. */
    channels: z.array(pattern).max(32).optional(),
    /** All that may be run: names, `name|sub`, and categories. */
    commands: z.array(command).min(1).max(64),
  })
  .refine(({ keys, channels = [] }) => keys.length + channels.length > 0, "at least one key or channel");

export type RedisAccess = z.output<typeof redisAccess>;

const MODES = { read: "%R~", write: "%W~", readwrite: "~" } as const;

/**
 * Last of all, so that no category or command before can bring one in, whatever the server's version puts into it. PUBSUB, in
 * `@pubsub`, names the channels of others, and no pattern holds it.
 */
const NEVER = ["-@admin", "-@dangerous", "-@scripting", "-pubsub"];

/**
 * The rules of a new user, for `ACL SETUSER`. One selector per access: flat rules would let the commands of one access run
 * on the keys of another.
 */
export function rulesOf(access: readonly RedisAccess[], passwordSha256: string): string[] {
  const selectors = eachOnce(access, (one) => one).map(({ keys, channels = [], commands }) => {
    const categories = commands.filter((name) => name.startsWith("@"));
    const single = commands.filter((name) => !name.startsWith("@"));
    return [
      ...keys.map(({ pattern: of, mode }) => `${MODES[mode]}${of}`),
      ...channels.map((of) => `&${of}`),
      "-@all",
      ...categories.map((name) => `+${name}`),
      // They name no key, so no pattern holds them.
      "-scan",
      "-randomkey",
      "-dbsize",
      ...single.map((name) => `+${name}`),
      ...NEVER,
    ].join(" ");
  });
  return [
    "reset",
    "on",
    `#${passwordSha256}`,
    "resetkeys",
    "resetchannels",
    "-@all",
    ...selectors.map((rules) => `(${rules})`),
  ];
}
