-- Roles, ids, the current tenant, and the audit log that every later table writes to.

-- Roles belong to the whole cluster, so several databases (and several migrations at once) may meet here.
do $$
begin
  perform pg_advisory_xact_lock(7305792);
  if not exists (select from pg_roles where rolname = 'mayfly_runtime') then
    create role mayfly_runtime nologin;
  end if;
  if not exists (select from pg_roles where rolname = 'mayfly_system') then
    create role mayfly_system nologin;
  end if;
  -- Functions below are handed to mayfly_system, which takes membership with SET.
  if not pg_has_role(current_user, 'mayfly_system', 'USAGE') then
    execute format('grant mayfly_system to %I', current_user);
  end if;
end $$;

create schema mayfly;
grant usage on schema mayfly to mayfly_runtime, mayfly_system;
-- Needed to own the functions below; taken back at the end of each migration that uses it.
grant create on schema mayfly to mayfly_system;

-- BullMQ keeps its own tables here when there is no Redis. They hold no data of ours (the queue is only promptness).
create schema bullmq;
grant usage, create on schema bullmq to mayfly_runtime;

-- The second wall (invariant 10): every policy compares with this, and nothing is visible while it is not set.
-- A transaction-local setting reads '' (not null) once a transaction has used it, hence the nullif.
create function mayfly.tenant() returns text language sql stable parallel safe
  return nullif(current_setting('mayfly.tenant', true), '');

-- Who acts, for the audit events that triggers write.
create function mayfly.actor() returns text language sql stable
  return coalesce(nullif(current_setting('mayfly.actor', true), ''), 'mayfly:database');

-- An id as src/lib/ids.ts makes them: prefix, then a UUIDv7 (RFC 9562 §5.7) in hex. PostgreSQL 16 and 17 have no uuidv7().
create function mayfly.new_id(prefix text) returns text language sql volatile parallel safe
  return prefix || '_' || lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
    || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14);

-- The smallest id of a month: the bound of its partition, because ids sort by time.
create function mayfly.id_bound(prefix text, at timestamptz) returns text language sql immutable
  return prefix || '_' || lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0');

create table mayfly.tenants (
  id text collate "C" primary key check (id ~ '^ten_[0-9a-f]{32}$'),
  name text not null unique check (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
  display_name text not null,
  state text not null default 'active' check (state in ('active', 'suspended')),
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

-- Append-only. recorded_by_transaction lets a sealer take events in an order without gaps: an event is final once its
-- transaction is older than every running one (pg_snapshot_xmin).
create table mayfly.audit_events (
  tenant_id text collate "C" not null,
  id text collate "C" not null default mayfly.new_id('evt'),
  type text not null,
  actor text not null,
  subject_id text collate "C",
  agent_id text collate "C",
  task_id text collate "C",
  credential_id text collate "C",
  data jsonb not null default '{}',
  request_id text,
  recorded_at timestamptz not null default now(),
  recorded_by_transaction xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, id)
) partition by range (id);
create index audit_events_subject on mayfly.audit_events (tenant_id, subject_id, id);
create index audit_events_task on mayfly.audit_events (tenant_id, task_id, id) where task_id is not null;
create index audit_events_agent on mayfly.audit_events (tenant_id, agent_id, id) where agent_id is not null;
create index audit_events_credential on mayfly.audit_events (tenant_id, credential_id, id) where credential_id is not null;

-- Every registry table has this trigger, so a change without its event cannot be written (invariant 8).
-- TG_ARGV: the word for the thing, then the columns whose values must not be copied into the log.
create function mayfly.audit_change() returns trigger language plpgsql as $$
declare
  word text := tg_argv[0];
  hidden text[] := coalesce(tg_argv[1], '{}')::text[];
  silent text[] := '{version,updated_at,reconciled_at,canary_at,canary_name}';
  was jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - hidden end;
  is_ jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - hidden end;
  changed jsonb;
  row_ jsonb := coalesce(is_, was);
begin
  if tg_op = 'UPDATE' then
    select coalesce(jsonb_object_agg(n.key, jsonb_build_object('from', was -> n.key, 'to', n.value)), '{}')
      into changed
      from jsonb_each(is_) n
     where n.value is distinct from was -> n.key and n.key <> all (silent);
    if changed = '{}' and to_jsonb(old) - silent = to_jsonb(new) - silent then
      return null;
    end if;
  end if;
  insert into mayfly.audit_events (tenant_id, type, actor, subject_id, agent_id, task_id, data, request_id)
  values (
    case when word = 'tenant' then row_ ->> 'id' else row_ ->> 'tenant_id' end,
    word || '.' || case tg_op when 'INSERT' then 'created' when 'UPDATE' then 'updated' else 'deleted' end,
    mayfly.actor(), coalesce(row_ ->> 'id', row_ ->> 'target_id'),
    case when word = 'agent' then row_ ->> 'id' else row_ ->> 'agent_id' end,
    case when word = 'task' then row_ ->> 'id' end,
    case tg_op when 'UPDATE' then changed else row_ - 'tenant_id'::text - 'id'::text end,
    nullif(current_setting('mayfly.request', true), ''));
  return null;
end $$;

-- Before row-level security is forced below: afterwards not even the owner writes here without a tenant.
insert into mayfly.tenants (id, name, display_name) values
  ('ten_00000000000070008000000000000000', 'system', 'Operators of this deployment'),
  ('ten_00000000000070008000000000000001', 'default', 'The first tenant');

create trigger audit after insert or update or delete on mayfly.tenants
  for each row execute function mayfly.audit_change('tenant');

alter table mayfly.tenants enable row level security, force row level security;
alter table mayfly.audit_events enable row level security, force row level security;
-- Operators act in the system tenant, which sees the list of tenants and nothing inside them.
create policy tenant on mayfly.tenants to mayfly_runtime
  using (id = mayfly.tenant() or mayfly.tenant() = 'ten_00000000000070008000000000000000');
create policy everything on mayfly.tenants for select to mayfly_system using (true);
create policy tenant on mayfly.audit_events to mayfly_runtime
  using (tenant_id = mayfly.tenant())
  with check (tenant_id = mayfly.tenant() or mayfly.tenant() = 'ten_00000000000070008000000000000000');
create policy appending on mayfly.audit_events for insert to mayfly_system with check (true);

grant select, insert, update on mayfly.tenants to mayfly_runtime;
grant select on mayfly.tenants to mayfly_system;
grant select, insert on mayfly.audit_events to mayfly_runtime;
grant insert on mayfly.audit_events to mayfly_system;

-- The tenant of a caller is read from its token's audience before any tenant is set.
create function mayfly.tenant_by_name(p_name text) returns table (id text, state text)
  language sql stable security definer set search_path = mayfly, pg_temp
  begin atomic select t.id, t.state from mayfly.tenants t where t.name = p_name; end;
alter function mayfly.tenant_by_name(text) owner to mayfly_system;

-- Months of partitions are made ahead by the worker; the default partition catches an id from a clock gone wrong.
create function mayfly.ensure_partitions(p_months_ahead int) returns int
  language plpgsql security definer set search_path = mayfly, pg_temp as $$
declare
  parent record;
  month timestamptz;
  name text;
  made int := 0;
begin
  for parent in
    select * from (values ('audit_events', 'evt'), ('credentials', 'crd'), ('decisions', 'dec'), ('uses', 'use')) as p (tab, prefix)
     where to_regclass('mayfly.' || p.tab) is not null
  loop
    for month in
      select generate_series(date_trunc('month', now() at time zone 'utc') at time zone 'utc',
                             now() + make_interval(months => p_months_ahead), interval '1 month')
    loop
      name := parent.tab || to_char(month at time zone 'utc', '"_"YYYY_MM');
      if to_regclass('mayfly.' || name) is null then
        perform pg_advisory_xact_lock(7305793);
        if to_regclass('mayfly.' || name) is null then
          execute format('create table mayfly.%I partition of mayfly.%I for values from (%L) to (%L)', name, parent.tab,
            mayfly.id_bound(parent.prefix, month),
            mayfly.id_bound(parent.prefix, (month at time zone 'utc' + interval '1 month') at time zone 'utc'));
          made := made + 1;
        end if;
      end if;
    end loop;
  end loop;
  return made;
end $$;
revoke all on function mayfly.ensure_partitions(int) from public;
grant execute on function mayfly.ensure_partitions(int) to mayfly_runtime;

create table mayfly.audit_events_other partition of mayfly.audit_events default;
select mayfly.ensure_partitions(2);

revoke create on schema mayfly from mayfly_system;
