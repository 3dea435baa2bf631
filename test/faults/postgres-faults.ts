import type { Wire } from "../issuers/wire.ts";
import type { Fleet } from "../support/fleet.ts";
import type { ownServer } from "../support/own-server.ts";
import { until } from "../support/until.ts";

/** What a fault is done to. */
export interface Struck {
  readonly fleet: Fleet;
  readonly server: ReturnType<typeof ownServer>;
  /** Between Mayfly and its database. */
  readonly line: Wire;
}

/** What happens to the database of Mayfly. */
export interface PostgresFault {
  readonly strike: (struck: Struck) => unknown;
  readonly heal?: (struck: Struck) => unknown;
  /**
   * What a mint in the middle of it is told. `refused`: that it cannot be served now. `served`: nobody notices; one after the other. `either`:
   * one or the other. `late`: nothing, until it is over.
   */
  readonly mints: "refused" | "served" | "either" | "late";
}

/** One after the other; again where a deadlock with what runs made it the loser, as an admin would. */
const sql =
  (...statements: readonly string[]) =>
  async ({ fleet }: Struck): Promise<void> => {
    for (const statement of statements)
      await until(statement, () =>
        fleet.sql(statement).then(
          () => true,
          (error: { code?: string }) => {
            if (error.code !== "40P01") throw error;
            return false;
          },
        ),
      );
  };
const start = ({ server }: Struck) => server.start();

/** Cuts the sessions of Mayfly, so that new ones are needed. */
const CUT = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'mayfly_app'";

/** What writes credentials comes by here first. */
const trap = (body: string, writes = "insert or update") =>
  sql(
    "create sequence if not exists public.tries; grant usage on sequence public.tries to public",
    `create or replace function public.trap() returns trigger language plpgsql as $$ begin ${body} return new; end $$`,
    `create or replace trigger trap before ${writes} on mayfly.credentials for each row execute function public.trap()`,
  );
const freed = sql("drop trigger trap on mayfly.credentials");
const raise = (state: string) => `raise exception 'a fault' using errcode = '${state}';`;
const raiseTwice = (state: string) => `if nextval('public.tries') % 3 <> 0 then ${raise(state)} end if;`;

/** Every fault of Mayfly's own database (reliability F3). */
export const postgresFaults: Readonly<Record<string, PostgresFault>> = {
  "stopped fast": { strike: ({ server }) => server.stop(), heal: start, mints: "refused" },
  "stopped immediately": { strike: ({ server }) => server.quit(), heal: start, mints: "refused" },
  "killed -9, all of it": { strike: ({ server }) => server.kill(), heal: start, mints: "refused" },
  frozen: { strike: ({ server }) => server.freeze(), heal: ({ server }) => server.thaw(), mints: "late" },
  "out of connections": {
    strike: sql("alter role mayfly_app connection limit 0", CUT),
    heal: sql("alter role mayfly_app connection limit -1"),
    mints: "refused",
  },
  "rid of our sessions": { strike: sql(CUT), mints: "either" },
  "read-only": {
    strike: sql("alter role mayfly_app set default_transaction_read_only = on", CUT),
    heal: sql("alter role mayfly_app reset default_transaction_read_only", CUT),
    mints: "refused",
  },
  "in conflicts, twice for each intent": { strike: trap(raiseTwice("40001"), "insert"), heal: freed, mints: "served" },
  "in deadlocks, always": { strike: trap(raise("40P01")), heal: freed, mints: "refused" },
  "too slow for its statement timeout": {
    strike: trap("perform pg_sleep(60);", "insert"),
    heal: freed,
    mints: "refused",
  },
  "out of disk": { strike: trap(raise("53100")), heal: freed, mints: "refused" },
  "silent after the commit of an intent": {
    strike: ({ line }) => line.loseAnswerTo("mint_commit"),
    mints: "either",
  },
  "silent after the commit of an activation": {
    strike: ({ line }) => line.loseAnswerTo("mint_activate"),
    mints: "either",
  },
};
