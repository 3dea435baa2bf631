import { MayflyError } from "../lib/errors.ts";
import type { Connection } from "./postgres-client.ts";

/*
 * From PostgreSQL 16 on, who made a role is a member of it, and whether he may change one is found out by walking through
 * all that he is a member of, anew after every change of any membership (roles_is_member_of in utils/adt/acl.c). With 5,000
 * live roles of one maker, each CREATE, GRANT, ALTER and DROP costs tens of milliseconds of the server's time, so what ends
 * together dies ever more slowly. So a target has several makers, and each role is made and dropped by one of them.
 *
 * A keeper cannot log in, and only the admin may act as it. It has CREATEROLE, which reaches what it made itself, and
 * hands out the groups that the admin lets it hand out: none of the admin's rights, and no other.
 */

/** With so many, 5,000 live roles cost as much as 160 do with one. */
const KEEPERS = 32;
/** A keeper of so many is reached through a function: {@link REACH_KEEPER}. About 1,000 live roles, then. */
const MANY_ROLES = 32;

/** What a mint must know of its keeper, and the target's clock: see {@link MEET_KEEPER}. */
interface Before {
  /** Milliseconds since 1970. */
  readonly now_ms: number;
  readonly shared: boolean;
  readonly createrole: boolean;
  readonly made: boolean;
  /** Those of the wanted groups that it may not hand out yet, in the order in which they were asked for. */
  readonly ungranted: readonly string[];
}

/** The target's clock, and the inputs of {@link MEET_KEEPER}. */
export async function readBefore(
  connection: Connection,
  {
    deployment,
    role,
    groups,
  }: { readonly deployment: string; readonly role: string; readonly groups: readonly string[] },
): Promise<{ readonly nowMs: number; readonly keeper: string; readonly make: string; readonly admit: string }> {
  // Its name can be no credential's.
  const keeper = `mfy_${deployment}_keeper_${Number.parseInt(role.slice(-2), 16) % KEEPERS}`;
  const [before] = await connection.read<Before>(
    `select (extract(epoch from clock_timestamp()) * 1000)::float8 as now_ms,
       current_setting('server_version_num')::int >= 160000 as shared,
       (select rolcreaterole from pg_roles where rolname = current_user) as createrole,
       exists (select from pg_roles where rolname = $1) as made,
       array(select wanted.name from unnest($2::text[]) with ordinality as wanted(name, at) where not exists (
         select from pg_auth_members m join pg_roles g on g.oid = m.roleid join pg_roles k on k.oid = m.member
          where g.rolname = wanted.name and k.rolname = $1 and m.admin_option) order by at) as ungranted`,
    [keeper, groups],
  );
  if (before === undefined) throw new MayflyError("target_unavailable", "PostgreSQL did not tell its time");
  // Whoever takes CREATEROLE from the admin wants no more roles from it, though its keepers could go on.
  const shared = before.shared && before.createrole;
  return {
    nowMs: before.now_ms,
    keeper: shared ? keeper : "",
    make: shared && !before.made ? "yes" : "",
    admit: `{${shared ? before.ungranted.join(",") : ""}}`,
  };
}

/**
 * For a plpgsql block: goes on as `mayfly.keeper`; as the admin when that is empty. SET ROLE walks through all roles of all
 * keepers, so where it is done for each credential there is {@link REACH_KEEPER}.
 */
export const AS_ITS_KEEPER = `if current_setting('mayfly.keeper') <> '' then
    execute format('set local role %I', current_setting('mayfly.keeper')); end if;`;

/**
 * For a plpgsql block: what {@link byKeeper} says from here on is done by `mayfly.keeper`, by the admin when that is empty.
 * Through a function of the keeper's, where it has so many roles that SET ROLE costs more than making one: with 5,000 live
 * roles, 3.3 ms of the target's time each. It is the session's own (`pg_temp`: nobody else may call it, and it goes with the
 * connection), and a database that gives nobody TEMP does without.
 */
export const REACH_KEEPER = `if current_setting('mayfly.keeper') <> ''
      and to_regprocedure(format('pg_temp.%I(text)', current_setting('mayfly.keeper'))) is null then
    execute format('set local role %I', current_setting('mayfly.keeper'));
    if has_database_privilege(current_database(), 'TEMP') and ${MANY_ROLES} <
        (select count(*) from pg_auth_members where member = to_regrole(quote_ident(current_user))) then
      execute format('create function pg_temp.%I(statement text) returns void language plpgsql security definer
        set search_path = pg_catalog, pg_temp as %L', current_user, 'begin execute statement; end');
    end if;
  end if;`;

/** For a plpgsql block that begins with {@link REACH_KEEPER}: executes what the expression says. */
export const byKeeper = (expression: string): string => `if current_setting('mayfly.keeper') in ('', current_user) then
    execute ${expression};
  else
    execute format('select pg_temp.%I($1)', current_setting('mayfly.keeper')) using ${expression};
  end if;`;

/**
 * {@link REACH_KEEPER} for a mint: makes the keeper when `mayfly.make` says so, and lets it hand out
 * `mayfly.admit`. As the admin when there is no keeper: before 16, where there is nothing to share out.
 */
export const MEET_KEEPER = `if current_setting('mayfly.make') <> '' then
    begin
      execute format('create role %I nologin createrole', current_setting('mayfly.keeper'));
      execute format('grant %I to current_user with inherit false, set true', current_setting('mayfly.keeper'));
    exception when duplicate_object or unique_violation then null; end;
  end if;
  foreach group_name in array current_setting('mayfly.admit')::text[] loop
    execute format('grant %I to %I with admin true, inherit false, set false', group_name, current_setting('mayfly.keeper'));
  end loop;
  ${REACH_KEEPER}`;

/**
 * For a query of `pg_roles r`: the keeper that made the role; null when none did, or it may not be used. Looked up in the
 * table, for `pg_has_role` would walk through every role that any keeper made. (Before 16 there is no set_option.)
 */
export const ITS_KEEPER = `(select k.rolname from pg_auth_members m join pg_roles k on k.oid = m.member
  where m.roleid = r.oid and m.admin_option and k.rolcreaterole and k.rolname <> current_user
    and exists (select from pg_auth_members s where s.roleid = k.oid and s.member = to_regrole(quote_ident(current_user))
      and (to_jsonb(s) ->> 'set_option')::boolean) limit 1)`;
