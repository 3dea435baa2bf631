-- How those learn of a revocation who do not ask about each token: token status lists (draft-ietf-oauth-status-list-21),
-- and a feed of what was taken back. And what tools report: how credentials were used.

-- A place in a list is a number below 2^20, and belongs to one token. Lists are made per two hours of expiry, so that they
-- retire. next counts the places that processes have leased; the seed says in which order the places come (src/status/
-- permute.ts). The seed is random and lives here, so that every process has the same order, whatever keys it holds: two
-- orders on one list would give a place twice. It hides from holders of tokens how many there are; who reads this table
-- sees that anyway.
create table mayfly.status_lists (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null default mayfly.new_id('stl') check (id ~ '^stl_[0-9a-f]{32}$'),
  expires_before timestamptz not null check (isfinite(expires_before)),
  next int not null default 0 check (next between 0 and 1048576),
  seed bytea not null default uuid_send(gen_random_uuid()),
  created_at timestamptz not null default now(),
  primary key (tenant_id, id)
);
-- One open list per two hours; a full one opens the next.
create unique index status_lists_open on mayfly.status_lists (tenant_id, expires_before) where next < 1048576;

-- A token nobody could be told about must not exist.
alter table mayfly.credentials add constraint credentials_self_contained_status
  check (not self_contained or status_list is not null);

-- What is not valid any more, until some minutes after it would have expired anyway. xid is the transaction that took it
-- back: with a snapshot it tells what a reader has seen, also when transactions commit in another order than they began.
create table mayfly.token_statuses (
  tenant_id text collate "C" not null,
  credential_id text collate "C" not null,
  target_id text collate "C" not null,
  status_list text collate "C" not null,
  status_index int not null,
  status smallint not null default 1 check (status = 1),
  expires_at timestamptz not null,
  xid xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, credential_id)
);
create index token_statuses_xid on mayfly.token_statuses (tenant_id, xid);
create index token_statuses_list on mayfly.token_statuses (tenant_id, status_list);
create index token_statuses_expiry on mayfly.token_statuses (expires_at);

-- Whoever takes back, and however: no statement can end a token without this.
create function mayfly.note_revoked_tokens() returns trigger language plpgsql as $$
begin
  insert into mayfly.token_statuses (tenant_id, credential_id, target_id, status_list, status_index, expires_at)
  select n.tenant_id, n.id, n.target_id, n.status_list, n.status_index, n.expires_at
    from new_rows n where n.self_contained and n.state = 'revoked'
  on conflict do nothing;
  return null;
end $$;
create trigger note_revoked after update on mayfly.credentials
  referencing new table as new_rows for each statement execute function mayfly.note_revoked_tokens();

do $$
declare
  t text;
begin
  foreach t in array array['status_lists', 'token_statuses'] loop
    execute format('alter table mayfly.%I enable row level security, force row level security', t);
    execute format('create policy tenant on mayfly.%I to mayfly_runtime using (tenant_id = mayfly.tenant())', t);
    execute format('grant select, insert on mayfly.%I to mayfly_runtime', t);
  end loop;
end $$;
grant update (next) on mayfly.status_lists to mayfly_runtime;

-- The next p_count places of the list for tokens that expire before a moment. p_count divides 2^20.
create function mayfly.lease_status_places(p_tenant text, p_expires_before timestamptz, p_count int)
  returns table (id text, seed bytea, first int)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  loop
    return query update status_lists l set next = l.next + p_count
      where l.tenant_id = p_tenant and l.expires_before = p_expires_before and l.next < 1048576
      returning l.id, l.seed, l.next - p_count;
    if found then return; end if;
    insert into status_lists (tenant_id, expires_before) values (p_tenant, p_expires_before) on conflict do nothing;
  end loop;
end $$;

-- The places of one list that are not valid any more, four bytes each, most significant first: an array of a hundred
-- thousand numbers as text takes the caller many times as long. No row when there is no such list.
create function mayfly.read_status_list(p_tenant text, p_list text) returns table (places bytea)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  select coalesce((select string_agg(int4send(s.status_index), ''::bytea) from token_statuses s
      where s.tenant_id = p_tenant and s.status_list = l.id), ''::bytea)
    from status_lists l where l.tenant_id = p_tenant and l.id = p_list;
end $$;

-- The tenant's lists that a living token may point at.
create function mayfly.list_status_lists(p_tenant text) returns table (id text)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query select l.id from status_lists l where l.tenant_id = p_tenant and l.expires_before > now() order by 1;
end $$;

-- What a process asks a few times a second, for all tenants that somebody there listens for: has something been taken back
-- that the snapshot p_since does not show, in which lists, and is the registry still of the same generation. The answer's
-- snapshot is the next p_since. Every transaction is in one of the answers: one that was running at p_since is not visible
-- in it, whenever it began. Answers ids and counts alone; who wants the tokens reads them as their tenant.
create function mayfly.statuses_since(p_since pg_snapshot, p_tenants text[])
  returns table (tenant_id text, generation bigint, lists text[], snapshot text, now_ms bigint)
  language sql stable security definer set search_path = mayfly, pg_temp
  begin atomic
    select g.tenant_id, g.generation, coalesce(s.lists, '{}'), pg_current_snapshot()::text,
           mayfly.ms(statement_timestamp())
      from mayfly.generations g
      left join lateral (select array_agg(distinct t.status_list) as lists from mayfly.token_statuses t
        where t.tenant_id = g.tenant_id and t.xid >= pg_snapshot_xmin(p_since)
          and not pg_visible_in_snapshot(t.xid, p_since)) s on true
     where g.tenant_id = any (p_tenants);
  end;

-- Items: {caller?, since?, serves?, after?, most}. The tokens that are not valid any more and not yet expired: those of the
-- targets that the caller serves, if it is an agent; only those that are not in the snapshot `since`, if it is good for
-- that. It is not when the caller serves other targets than it did then, or when the database is behind it (restored).
-- At most `most`, by id, after the id `after`. `audiences`: the APIs of which the caller is told everything, which are those
-- whose targets it serves, all of them where several share the audience; null for a caller that is told of all there are.
create function mayfly.read_statuses(p_tenant text, p_items jsonb) returns table (ord int, facts json)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  select i.ord::int, json_build_object(
      'active', i.caller is null or exists (select from agents a join owners o on o.tenant_id = p_tenant and o.id = a.owner_id
        where a.tenant_id = p_tenant and a.id = i.caller and a.state = 'active' and o.status = 'active'),
      'serves', v.serves, 'audiences', w.audiences, 'complete', f.since is null, 'snapshot', pg_current_snapshot()::text,
      'statuses', coalesce((select json_agg(json_build_object('jti', s.credential_id, 'status', s.status,
          'exp', floor(extract(epoch from s.expires_at))::bigint)) from (
        select t.credential_id, t.status, t.expires_at from token_statuses t
         where t.tenant_id = p_tenant and t.xid >= coalesce(pg_snapshot_xmin(f.since), '0')
           and (f.since is null or not pg_visible_in_snapshot(t.xid, f.since))
           and t.expires_at > statement_timestamp() and t.credential_id > coalesce(i.after, '')
           and (i.caller is null or exists (select from relationships r where r.tenant_id = p_tenant
             and r.relation = 'serves' and r.subject = i.caller and r.object = t.target_id))
         order by t.credential_id limit i.most) s), '[]'))
    from rows from (jsonb_to_recordset(p_items) as (caller text, since pg_snapshot, serves text, after text, most int))
      with ordinality as i (caller, since, serves, after, most, ord)
   cross join lateral (select string_agg(r.object, ' ' order by r.object) as targets
      from relationships r where r.tenant_id = p_tenant and r.relation = 'serves' and r.subject = i.caller) m
   cross join lateral (select case when i.caller is not null then to_json(array(
        select distinct t.config ->> 'audience' from relationships r join targets t on t.tenant_id = p_tenant and t.id = r.object
         where r.tenant_id = p_tenant and r.relation = 'serves' and r.subject = i.caller and t.issuer = 'jwt'
           and not exists (select from targets o where o.tenant_id = p_tenant and o.issuer = 'jwt'
             and o.config ->> 'audience' = t.config ->> 'audience' and not exists (select from relationships also
               where also.tenant_id = p_tenant and also.relation = 'serves' and also.subject = i.caller and also.object = o.id))
         order by 1)) end as audiences) w
   cross join lateral (select case when i.caller is null then 'all' else left(encode(sha256(convert_to(
        concat_ws(e'\n', coalesce(m.targets, ''), w.audiences::text), 'UTF8')), 'hex'), 16) end as serves) v
   cross join lateral (select case when i.serves = v.serves
        and pg_snapshot_xmax(i.since) <= pg_snapshot_xmax(pg_current_snapshot()) then i.since end as since) f
   order by 1;
end $$;

-- Long after the last token of a list has expired there is nothing left to say about it.
create function mayfly.forget_statuses() returns void
  language sql volatile security definer set search_path = mayfly, pg_temp
  begin atomic
    delete from mayfly.token_statuses where expires_at < now() - interval '10 minutes';
    delete from mayfly.status_lists where expires_before < now() - interval '10 minutes';
  end;

grant create on schema mayfly to mayfly_system;
alter function mayfly.statuses_since(pg_snapshot, text[]) owner to mayfly_system;
alter function mayfly.forget_statuses() owner to mayfly_system;
revoke create on schema mayfly from mayfly_system;
do $$
declare
  t text;
begin
  foreach t in array array['status_lists', 'token_statuses'] loop
    execute format('create policy looking on mayfly.%I for select to mayfly_system using (true)', t);
    execute format('create policy forgetting on mayfly.%I for delete to mayfly_system using (true)', t);
    execute format('grant delete on mayfly.%I to mayfly_system', t);
  end loop;
end $$;
grant select (expires_before) on mayfly.status_lists to mayfly_system;
grant select (tenant_id, status_list, xid, expires_at) on mayfly.token_statuses to mayfly_system;
create policy looking on mayfly.generations for select to mayfly_system using (true);
grant select (tenant_id, generation) on mayfly.generations to mayfly_system;

-- What a tool says about a use of a credential for something that it serves: allowed or refused. Evidence, so only ever
-- appended. `at` is the tool's clock; `after_end`, that the credential was past its end or taken back by then.
create table mayfly.uses (
  tenant_id text collate "C" not null,
  id text collate "C" not null default mayfly.new_id('use'),
  credential_id text collate "C" not null,
  agent_id text collate "C" not null,
  task_id text collate "C" not null,
  action text not null,
  resource text not null,
  outcome text not null check (outcome in ('allowed', 'refused')),
  at timestamptz not null check (isfinite(at)),
  after_end boolean not null,
  reported_by text not null,
  request_id text,
  recorded_at timestamptz not null default now(),
  primary key (tenant_id, id)
) partition by range (id);
create index uses_credential on mayfly.uses (tenant_id, credential_id, id);
create table mayfly.uses_other partition of mayfly.uses default;
select mayfly.ensure_partitions(2);

alter table mayfly.uses enable row level security, force row level security;
create policy tenant on mayfly.uses to mayfly_runtime using (tenant_id = mayfly.tenant());
grant select, insert on mayfly.uses to mayfly_runtime;

-- The rows are the evidence. One event for all of a report holds their hash, so that whatever seals the log seals them too,
-- and a busy tool does not fill the log; what was let through after its end gets an event per credential, to be found by it.
create function mayfly.audit_uses() returns trigger language plpgsql as $$
begin
  insert into mayfly.audit_events (tenant_id, type, actor, data, request_id)
  select n.tenant_id, 'uses.reported', n.reported_by,
         jsonb_build_object('uses', count(*), 'after_end', count(*) filter (where n.after_end), 'first', min(n.id), 'last', max(n.id),
           'sha256', encode(sha256(convert_to(string_agg(concat_ws(' ', n.id, n.credential_id, n.action, n.resource, n.outcome,
             mayfly.ms(n.at), n.after_end), e'\n' order by n.id), 'UTF8')), 'hex')),
         n.request_id
    from new_rows n group by n.tenant_id, n.reported_by, n.request_id;
  insert into mayfly.audit_events (tenant_id, type, actor, subject_id, agent_id, task_id, credential_id, data, request_id)
  select n.tenant_id, 'credential.used_after_end', n.reported_by, n.credential_id, n.agent_id, n.task_id, n.credential_id,
         jsonb_build_object('uses', count(*), 'first_at', min(n.at), 'last_at', max(n.at)), n.request_id
    from new_rows n where n.after_end and n.outcome = 'allowed'
   group by n.tenant_id, n.reported_by, n.credential_id, n.agent_id, n.task_id, n.request_id;
  return null;
end $$;
create trigger audit after insert on mayfly.uses
  referencing new table as new_rows for each statement execute function mayfly.audit_uses();

-- Items: {credential_id, action, resource, outcome, at_ms}. Keeps those of credentials for targets that the agent p_caller
-- serves, and answers how many those are. No row when p_caller is not active: nothing is kept then.
create function mayfly.report_uses(p_tenant text, p_caller text, p_request text, p_items jsonb) returns table (accepted int)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
declare
  kept int;
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  if not exists (select from agents a join owners o on o.tenant_id = p_tenant and o.id = a.owner_id
      where a.tenant_id = p_tenant and a.id = p_caller and a.state = 'active' and o.status = 'active') then
    return;
  end if;
  insert into uses (tenant_id, credential_id, agent_id, task_id, action, resource, outcome, at, after_end, reported_by, request_id)
  select p_tenant, c.id, c.agent_id, c.task_id, i.action, i.resource, i.outcome, i.at,
         i.at > least(c.expires_at, c.revoking_at, c.ended_at), p_caller, p_request
    from rows from (jsonb_to_recordset(p_items) as (credential_id text, action text, resource text, outcome text, at_ms bigint))
      with ordinality as u (credential_id, action, resource, outcome, at_ms, ord)
   cross join lateral (select u.action, u.resource, u.outcome, to_timestamp(u.at_ms / 1000.0) as at) i
   cross join lateral (select x.id, x.agent_id, x.task_id, x.target_id, x.expires_at, x.revoking_at, x.ended_at from credentials x
     where x.tenant_id = p_tenant and x.id = u.credential_id offset 0) c
   where exists (select from relationships r where r.tenant_id = p_tenant and r.relation = 'serves'
     and r.subject = p_caller and r.object = c.target_id);
  get diagnostics kept = row_count;
  return query select kept;
end $$;
