-- Tasks, decisions and credentials: the heart. The state machine is enforced here, so that no code path can break it.

create table mayfly.tasks (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^tsk_[0-9a-f]{32}$'),
  agent_id text collate "C" not null,
  purpose_id text collate "C" not null,
  state text not null default 'open' check (state in ('open', 'paused', 'ended')),
  outcome text check (outcome in ('completed', 'failed', 'cancelled', 'deadline', 'heartbeat_lost', 'deviation', 'killed')),
  objective text not null,
  initiated_by jsonb not null,
  opened_by text not null,
  ended_by text,
  ended_at timestamptz,
  deadline timestamptz not null check (isfinite(deadline)),
  heartbeat_seconds int check (heartbeat_seconds > 0),
  max_credentials int check (max_credentials > 0),
  max_per_minute int check (max_per_minute > 0),
  max_live_seconds int check (max_live_seconds > 0),
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, agent_id) references mayfly.agents (tenant_id, id),
  foreign key (tenant_id, purpose_id) references mayfly.purposes (tenant_id, id),
  check ((state = 'ended') = (outcome is not null)),
  check ((state = 'ended') = (ended_at is not null))
);
create index tasks_agent on mayfly.tasks (tenant_id, agent_id);
create index tasks_purpose on mayfly.tasks (tenant_id, purpose_id);
create index tasks_deadline on mayfly.tasks (deadline) where state <> 'ended';

-- What changes often about a task, apart from the row that every mint locks FOR SHARE.
create table mayfly.task_meters (
  tenant_id text collate "C" not null,
  task_id text collate "C" not null,
  heartbeat_at timestamptz not null default now(),
  heartbeat_due_at timestamptz,
  issued int not null default 0,
  issued_live_seconds bigint not null default 0,
  minute_starts_at timestamptz not null default now(),
  issued_in_minute int not null default 0,
  primary key (tenant_id, task_id),
  foreign key (tenant_id, task_id) references mayfly.tasks (tenant_id, id) on delete cascade
-- Every mint makes a new version of a row, which stays on its page, out of the indexes, if the page has room.
) with (fillfactor = 50);
create index task_meters_heartbeat on mayfly.task_meters (heartbeat_due_at) where heartbeat_due_at is not null;

-- input is kept whole, so that a decision can be replayed against another policy set.
create table mayfly.decisions (
  tenant_id text collate "C" not null,
  id text collate "C" not null,
  agent_id text collate "C",
  task_id text collate "C",
  outcome text not null check (outcome in ('allow', 'deny', 'allow_if')),
  policy_version int not null,
  determining text[] not null,
  reasons jsonb not null,
  input jsonb not null,
  input_hash text not null,
  decided_at timestamptz not null default now(),
  primary key (tenant_id, id)
) partition by range (id);
create index decisions_agent on mayfly.decisions (tenant_id, agent_id, id);

-- What the kill switch was told. While blocks_until is ahead, nothing that the selector meets is minted: without it, a
-- mint decided a moment before the order could commit a moment after it.
create table mayfly.revocations (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^rev_[0-9a-f]{32}$'),
  selector jsonb not null,
  reason text not null,
  ordered_by text not null,
  ordered_at timestamptz not null default clock_timestamp(),
  blocks_until timestamptz not null check (isfinite(blocks_until)),
  matched int not null,
  primary key (tenant_id, id)
);
create index revocations_blocking on mayfly.revocations (tenant_id, blocks_until);

-- No foreign keys to the registry: a mint re-checks those rows under lock in the statement that inserts, and each key
-- would write one more row lock per mint. A registry row that a credential names is never deleted (checked there).
-- confirmation is the key that the holder proves to have (RFC 7800 cnf). ancestors are the credentials that this one was
-- minted from, the root first and the parent last; null when it was minted from none. delegation is what may be minted
-- from it; null when nothing may. status_list and status_index are its place in a token status list.
-- due_at is the one column that the sweep looks at: create_by while pending, expires_at while active, the next try
-- while revoking, null for ever after.
create table mayfly.credentials (
  tenant_id text collate "C" not null,
  id text collate "C" not null,
  agent_id text collate "C" not null,
  owner_id text collate "C" not null,
  identity_id text collate "C",
  task_id text collate "C" not null,
  purpose_id text collate "C" not null,
  target_id text collate "C" not null,
  decision_id text collate "C" not null,
  issuer text not null,
  self_contained boolean not null,
  revocability text not null check (revocability in ('immediate', 'expiry')),
  environment text not null,
  data_class text not null,
  binding text not null,
  confirmation jsonb,
  parent_id text collate "C",
  ancestors text[] collate "C",
  delegation jsonb,
  signing_kid text,
  status_list text collate "C",
  status_index int,
  actions text[] not null,
  resource_ids text[] not null,
  access jsonb not null,
  requested_ttl_seconds int not null,
  ttl_seconds int not null check (ttl_seconds > 0),
  ttl_bound text not null,
  downstream_name text,
  handle_sealed bytea,
  requested_by text not null,
  request_id text,
  created_at timestamptz not null default now(),
  create_by timestamptz not null,
  expires_at timestamptz not null check (isfinite(expires_at)),
  state text not null check (state in ('pending', 'active', 'revoking', 'revoked', 'expired', 'failed')),
  state_at timestamptz not null default now(),
  state_by text not null,
  state_reason text not null,
  due_at timestamptz check (isfinite(due_at)),
  activated_at timestamptz,
  revoking_at timestamptz,
  ended_at timestamptz,
  stuck boolean not null default false,
  attempts int not null default 0,
  last_error text,
  receipt jsonb,
  revocation_id text collate "C",
  primary key (tenant_id, id),
  check ((state in ('revoked', 'expired', 'failed')) = (due_at is null)),
  check ((state in ('revoked', 'expired', 'failed')) = (ended_at is not null)),
  check (state not in ('revoked', 'expired', 'failed') or receipt is not null),
  check (self_contained or (downstream_name is not null and handle_sealed is not null) or state in ('revoked', 'expired', 'failed')),
  check (not stuck or state = 'revoking'),
  check (parent_id is not distinct from ancestors[cardinality(ancestors)]),
  check ((status_list is null) = (status_index is null))
) partition by range (id);
create index credentials_due on mayfly.credentials (tenant_id, due_at) where due_at is not null;
create index credentials_live_task on mayfly.credentials (tenant_id, task_id) where due_at is not null;
create index credentials_live_agent on mayfly.credentials (tenant_id, agent_id) where due_at is not null;
create index credentials_live_target on mayfly.credentials (tenant_id, target_id) where due_at is not null;
create index credentials_agent on mayfly.credentials (tenant_id, agent_id, id);
create index credentials_task on mayfly.credentials (tenant_id, task_id, id);
create index credentials_target on mayfly.credentials (tenant_id, target_id, id);
create index credentials_owner on mayfly.credentials (tenant_id, owner_id, id);
create index credentials_purpose on mayfly.credentials (tenant_id, purpose_id, id);
create index credentials_revocation on mayfly.credentials (tenant_id, revocation_id) where revocation_id is not null;
create index credentials_parent on mayfly.credentials (tenant_id, parent_id) where parent_id is not null;
create index credentials_name on mayfly.credentials (tenant_id, target_id, downstream_name) where downstream_name is not null;

create table mayfly.decisions_other partition of mayfly.decisions default;
create table mayfly.credentials_other partition of mayfly.credentials default;
select mayfly.ensure_partitions(2);

-- The only legal transitions (design §4), and nothing extends an expiry (invariant 2).
create function mayfly.guard_credential() returns trigger language plpgsql as $$
begin
  if old.state <> new.state and (old.state, new.state) not in (
    ('pending', 'active'), ('pending', 'revoking'), ('pending', 'failed'),
    ('active', 'revoking'), ('active', 'revoked'), ('active', 'expired'),
    ('revoking', 'revoked'), ('revoking', 'expired'), ('revoking', 'failed'))
  then
    raise exception 'a credential cannot go from % to %', old.state, new.state using errcode = 'MF001';
  end if;
  if old.state in ('revoked', 'expired', 'failed') and new is distinct from old then
    raise exception 'a credential that is % never changes again', old.state using errcode = 'MF001';
  end if;
  if new.expires_at > old.expires_at then
    raise exception 'nothing extends a credential' using errcode = 'MF002';
  end if;
  return new;
end $$;
create trigger guard before update on mayfly.credentials
  for each row execute function mayfly.guard_credential();

-- One event per change of state, in the transaction that changes it, by statement and not by row: a mint commits many.
create function mayfly.audit_new_credentials() returns trigger language plpgsql as $$
begin
  insert into mayfly.audit_events (tenant_id, type, actor, subject_id, agent_id, task_id, credential_id, data, request_id)
  select n.tenant_id, 'credential.' || case n.state when 'active' then 'issued' else n.state end, n.requested_by, n.id,
         n.agent_id, n.task_id, n.id,
         jsonb_build_object('target_id', n.target_id, 'purpose_id', n.purpose_id, 'owner_id', n.owner_id, 'decision_id', n.decision_id,
           'issuer', n.issuer, 'actions', n.actions, 'resource_ids', n.resource_ids, 'expires_at', n.expires_at, 'ttl_bound', n.ttl_bound,
           'downstream_name', n.downstream_name, 'binding', n.binding)
         -- A token that whoever holds it can use, by an admin's exception for its agent.
         || case when n.self_contained and n.confirmation is null then '{"bearer_exception": true}' else '{}' end::jsonb
         || case when n.parent_id is null then '{}' else jsonb_build_object('parent_id', n.parent_id) end,
         n.request_id
    from new_rows n;
  return null;
end $$;
create trigger audit_new after insert on mayfly.credentials
  referencing new table as new_rows for each statement execute function mayfly.audit_new_credentials();

create function mayfly.audit_changed_credentials() returns trigger language plpgsql as $$
begin
  insert into mayfly.audit_events (tenant_id, type, actor, subject_id, agent_id, task_id, credential_id, data, request_id)
  select n.tenant_id,
         'credential.' || case when n.stuck and not o.stuck then 'stuck' when n.state = 'active' then 'issued' else n.state end,
         n.state_by, n.id, n.agent_id, n.task_id, n.id,
         jsonb_strip_nulls(jsonb_build_object('from', o.state, 'reason', n.state_reason, 'target_id', n.target_id,
           'attempts', n.attempts, 'last_error', case when n.stuck then n.last_error end, 'receipt', n.receipt,
           'expires_at', n.expires_at)),
         nullif(current_setting('mayfly.request', true), '')
    from new_rows n join old_rows o on o.tenant_id = n.tenant_id and o.id = n.id
   where o.state <> n.state or (n.stuck and not o.stuck);
  return null;
end $$;
create trigger audit_changed after update on mayfly.credentials
  referencing old table as old_rows new table as new_rows for each statement execute function mayfly.audit_changed_credentials();

create function mayfly.audit_task() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and old.state = new.state then return null; end if;
  insert into mayfly.audit_events (tenant_id, type, actor, subject_id, agent_id, task_id, data, request_id)
  values (new.tenant_id,
    'task.' || case when tg_op = 'INSERT' then 'opened' when old.state = 'paused' and new.state = 'open' then 'resumed' else new.state end,
    mayfly.actor(), new.id, new.agent_id, new.id,
    jsonb_strip_nulls(jsonb_build_object('purpose_id', new.purpose_id, 'outcome', new.outcome, 'deadline', new.deadline,
      'initiated_by', new.initiated_by, 'objective', case when tg_op = 'INSERT' then new.objective end)),
    nullif(current_setting('mayfly.request', true), ''));
  return null;
end $$;
create trigger audit after insert or update on mayfly.tasks for each row execute function mayfly.audit_task();

create function mayfly.guard_task() returns trigger language plpgsql as $$
begin
  if old.state = 'ended' and new is distinct from old then
    raise exception 'a task that has ended never changes again' using errcode = 'MF001';
  end if;
  return new;
end $$;
create trigger guard before update on mayfly.tasks for each row execute function mayfly.guard_task();

do $$
declare
  t text;
begin
  foreach t in array array['tasks', 'task_meters', 'decisions', 'credentials', 'revocations'] loop
    execute format('alter table mayfly.%I enable row level security, force row level security', t);
    execute format('create policy tenant on mayfly.%I to mayfly_runtime using (tenant_id = mayfly.tenant())', t);
    execute format('grant select, insert on mayfly.%I to mayfly_runtime', t);
  end loop;
end $$;
-- Credentials, decisions and events are never deleted, decisions and events never updated.
grant update on mayfly.tasks, mayfly.task_meters, mayfly.credentials to mayfly_runtime;
