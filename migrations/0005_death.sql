-- What the worker runs. Only two functions look across tenants, and they answer with tenant ids and counts alone; the
-- work itself is done per tenant, under row-level security.

-- Tenants with something due now: credentials to take back or to expire, tasks past their deadline or heartbeat.
create function mayfly.due_tenants() returns table (tenant_id text, credentials boolean, tasks boolean)
  language sql stable security definer set search_path = mayfly, pg_temp
  begin atomic
    select d.tenant_id, bool_or(d.what = 'credential'), bool_or(d.what = 'task')
      from (select t.id as tenant_id, 'credential' as what from mayfly.tenants t cross join lateral (
              select from mayfly.credentials c where c.tenant_id = t.id and c.due_at <= statement_timestamp() limit 1) c
            union all
            select t.tenant_id, 'task' from mayfly.tasks t where t.state <> 'ended' and t.deadline <= statement_timestamp()
            union all
            select m.tenant_id, 'task' from mayfly.task_meters m where m.heartbeat_due_at <= statement_timestamp()) d
     group by d.tenant_id;
  end;

-- Numbers for /metrics, without any tenant in them.
create function mayfly.measure() returns jsonb
  language sql stable security definer set search_path = mayfly, pg_temp
  begin atomic
    select jsonb_build_object(
      'live', coalesce((select jsonb_object_agg(s.state, s.number) from (
        select c.state, count(*) as number from mayfly.credentials c where c.due_at is not null group by c.state) s), '{}'),
      'stuck', (select count(*) from mayfly.credentials c where c.due_at is not null and c.stuck),
      'overdue_seconds', (select coalesce(greatest(0, extract(epoch from clock_timestamp() - min(c.due_at))), 0)
        from mayfly.credentials c where c.due_at <= statement_timestamp()),
      'quarantined_targets', (select count(*) from mayfly.targets t where t.state = 'quarantined'));
  end;

-- Tenants and targets that the reconciler visits; not one that is being registered, whose canary it would remove.
create function mayfly.targets_to_reconcile(p_older_than interval) returns table (tenant_id text, target_id text)
  language sql stable security definer set search_path = mayfly, pg_temp
  begin atomic
    select t.tenant_id, t.id from mayfly.targets t
     where t.state <> 'retired' and (t.reconciled_at is null or t.reconciled_at < clock_timestamp() - p_older_than)
       and not (t.canary ->> 'state' = 'running' and t.created_at > clock_timestamp() - interval '2 minutes');
  end;

-- Rows that only guard against repetition go when the thing they guard against would be refused anyway.
create function mayfly.forget() returns void
  language sql volatile security definer set search_path = mayfly, pg_temp
  begin atomic
    delete from mayfly.seen_tokens where expires_at < now() - interval '5 minutes';
    delete from mayfly.idempotency_keys where created_at < now() - interval '24 hours';
  end;

-- Self-contained credentials need no far side: past their end they are expired, and the receipt says who answers for it.
create function mayfly.expire_due(p_tenant text, p_limit int) returns int
  language plpgsql volatile set search_path = mayfly, pg_temp set enable_sort = off as $$
declare
  due text[];
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  due := array(
    select c.id from credentials c
     where c.tenant_id = p_tenant and c.due_at <= statement_timestamp() and c.self_contained
     order by c.due_at limit p_limit for update skip locked
  );
  update credentials c set state = 'expired', state_at = now(), state_by = 'mayfly:worker', state_reason = 'ttl',
      ended_at = clock_timestamp(), due_at = null,
      receipt = jsonb_build_object('ended_by', 'expiry', 'probe', 'introspection', 'observed', 'inactive since its expiry',
        'due_at', c.expires_at, 'proven_at', clock_timestamp(), 'lag_ms', ms(clock_timestamp()) - ms(c.expires_at))
   where c.tenant_id = p_tenant and c.id = any (due);
  return cardinality(due);
end $$;

-- Takes what is due and needs a far side, for p_lease: a worker that dies with it loses it to another after that.
-- Without sorts it goes along the index and stops at the limit, however much is due.
create function mayfly.claim_due(p_tenant text, p_limit int, p_lease interval, p_skip_targets text[])
  returns table (id text, target_id text, issuer text, downstream_name text, handle_sealed bytea, attempts int,
    expires_ms bigint, due_ms bigint, revocability text, was_active boolean, create_by_ms bigint, now_ms bigint, state_reason text)
  language plpgsql volatile set search_path = mayfly, pg_temp set enable_sort = off as $$
declare
  due text[];
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  due := array(
    select c.id from credentials c
     where c.tenant_id = p_tenant and c.due_at <= statement_timestamp() and not c.self_contained
       and c.target_id <> all (p_skip_targets)
     order by c.due_at limit p_limit for update skip locked
  );
  return query
  update credentials c set state = 'revoking', state_at = case when c.state = 'revoking' then c.state_at else now() end,
      state_by = case when c.state = 'revoking' then c.state_by else 'mayfly:worker' end,
      state_reason = case c.state when 'pending' then 'mint_abandoned' when 'active' then 'ttl' else c.state_reason end,
      revoking_at = coalesce(c.revoking_at, case when c.state = 'active' then c.expires_at else now() end),
      attempts = c.attempts + 1, due_at = clock_timestamp() + p_lease
   where c.tenant_id = p_tenant and c.id = any (due)
  returning c.id, c.target_id, c.issuer, c.downstream_name, c.handle_sealed, c.attempts, ms(c.expires_at),
    ms(c.revoking_at), c.revocability, c.activated_at is not null, ms(c.create_by), ms(clock_timestamp()), c.state_reason;
end $$;

-- Ends with proof. Items: {id, state, receipt}. A row that another worker finished meanwhile is left as it is.
create function mayfly.finish_revocations(p_tenant text, p_items jsonb) returns table (ord int, outcome text)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
declare
  ids text[] := ids(p_items);
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  with item as materialized (
    select i.ordinality::int as ord, i.value ->> 'id' as id, i.value as v from jsonb_array_elements(p_items) with ordinality i
  ), done as (
    -- The handle may be the secret itself, where the far side can only be told by presenting it (invariant 11).
    update credentials c set state = v ->> 'state', state_at = now(), stuck = false, due_at = null, last_error = null, handle_sealed = null,
        ended_at = clock_timestamp(),
        receipt = (v -> 'receipt') || jsonb_build_object('due_at', c.revoking_at, 'proven_at', clock_timestamp(),
          'lag_ms', ms(clock_timestamp()) - ms(c.revoking_at), 'attempts', c.attempts)
      from item i where c.tenant_id = p_tenant and c.id = any (ids) and c.id = i.id and c.state = 'revoking'
    returning c.id
  )
  select i.ord, case when d.id is null then 'gone' else 'done' end from item i left join done d on d.id = i.id;
end $$;

-- Not proven: again later, for ever. Items: {id, after_ms, error, stuck}, or {id, after_ms, untried: attempts}, which counts for
-- nothing and gives way to a newer claim. Answers the targets that have too many stuck
-- credentials now; those are quarantined here, in the same transaction (invariant 6).
create function mayfly.retry_revocations(p_tenant text, p_items jsonb) returns table (ord int, outcome text)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
declare
  ids text[] := ids(p_items);
  any_stuck boolean := jsonb_path_exists(p_items, '$[*] ? (@.stuck == true)');
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  perform set_config('mayfly.actor', 'mayfly:worker', true);
  -- A quarantine changes the registry, and whoever does takes the gate before any row.
  if any_stuck then
    perform pg_advisory_xact_lock(gate(p_tenant));
  end if;
  with item as materialized (
    select i.value ->> 'id' as id, i.value as v from jsonb_array_elements(p_items) i
  )
  update credentials c set due_at = clock_timestamp() + make_interval(secs => (v ->> 'after_ms')::int / 1000.0),
      attempts = c.attempts - (v ? 'untried')::int, last_error = case when v ? 'untried' then c.last_error else v ->> 'error' end,
      stuck = c.stuck or coalesce((v ->> 'stuck')::boolean, false)
    from item i
   where c.tenant_id = p_tenant and c.id = any (ids) and c.id = i.id and c.state = 'revoking'
     and (not v ? 'untried' or c.attempts = (v ->> 'untried')::int);
  update targets g set state = 'quarantined', version = version + 1, updated_at = now()
   where any_stuck and g.tenant_id = p_tenant and g.state = 'active'
     and g.id in (select c.target_id from credentials c
       where c.tenant_id = p_tenant and c.due_at is not null and c.stuck group by c.target_id
      having count(*) >= (select x.stuck_limit from targets x where x.tenant_id = p_tenant and x.id = c.target_id));
  return query select i.ordinality::int, 'later'::text from jsonb_array_elements(p_items) with ordinality i;
end $$;

-- SPIFFE trust sources whose bundles are fetched: every process reads them before a token asks.
create function mayfly.bundle_sources() returns table (tenant_id text, id text, version int, sequence float8)
  language sql stable security definer set search_path = mayfly, pg_temp
  begin atomic
    select s.tenant_id, s.id, s.version, q.sequence::float8 from mayfly.trust_sources s
      left join mayfly.bundle_sequences q
        on q.tenant_id = s.tenant_id and q.trust_source_id = s.id and q.source_version = s.version
     where s.kind = 'spiffe' and s.state = 'active' and s.settings ? 'bundle_url';
  end;

-- Notes the sequence of a bundle that was read for this version of its source. It only ever grows.
create function mayfly.keep_bundle_sequence(p_tenant text, p_source text, p_version int, p_sequence bigint) returns void
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  insert into bundle_sequences as q (tenant_id, trust_source_id, source_version, sequence)
    select s.tenant_id, s.id, s.version, p_sequence from trust_sources s
     where s.tenant_id = p_tenant and s.id = p_source and s.version = p_version
  on conflict (tenant_id, trust_source_id) do update
    set source_version = excluded.source_version, sequence = excluded.sequence
    where (excluded.source_version, excluded.sequence) > (q.source_version, q.sequence);
end $$;

grant create on schema mayfly to mayfly_system;
alter function mayfly.due_tenants() owner to mayfly_system;
alter function mayfly.measure() owner to mayfly_system;
alter function mayfly.targets_to_reconcile(interval) owner to mayfly_system;
alter function mayfly.forget() owner to mayfly_system;
alter function mayfly.bundle_sources() owner to mayfly_system;
revoke create on schema mayfly from mayfly_system;

do $$
declare
  t text;
begin
  foreach t in array array['credentials', 'tasks', 'task_meters', 'targets', 'trust_sources', 'bundle_sequences', 'seen_tokens', 'idempotency_keys'] loop
    execute format('create policy looking on mayfly.%I for select to mayfly_system using (true)', t);
  end loop;
  foreach t in array array['seen_tokens', 'idempotency_keys'] loop
    execute format('create policy forgetting on mayfly.%I for delete to mayfly_system using (true)', t);
    execute format('grant select, delete on mayfly.%I to mayfly_system', t);
  end loop;
end $$;
grant select (tenant_id, due_at, state, stuck) on mayfly.credentials to mayfly_system;
grant select (tenant_id, deadline, state) on mayfly.tasks to mayfly_system;
grant select (tenant_id, heartbeat_due_at) on mayfly.task_meters to mayfly_system;
grant select (tenant_id, id, state, reconciled_at, canary, created_at) on mayfly.targets to mayfly_system;
grant select (tenant_id, id, kind, state, version, settings) on mayfly.trust_sources to mayfly_system;
grant select on mayfly.bundle_sequences to mayfly_system;

-- Tenants that were made before their policies were: they get the defaults at start.
create function mayfly.tenants_without_policies() returns table (id text)
  language sql stable security definer set search_path = mayfly, pg_temp
  begin atomic
    select t.id from mayfly.tenants t where not exists (select from mayfly.policy_sets p where p.tenant_id = t.id);
  end;
grant create on schema mayfly to mayfly_system;
alter function mayfly.tenants_without_policies() owner to mayfly_system;
revoke create on schema mayfly from mayfly_system;
create policy looking on mayfly.policy_sets for select to mayfly_system using (true);
grant select (tenant_id) on mayfly.policy_sets to mayfly_system;

-- Which of these credentials are not dead, whoever's they are. Names are per server and ledgers per tenant, so before the
-- reconciler calls something an orphan it makes sure that it is nobody's.
create function mayfly.live_anywhere(p_ids text[]) returns table (id text)
  language sql stable security definer set search_path = mayfly, pg_temp
  begin atomic
    select c.id from mayfly.credentials c where c.id = any (p_ids) and c.due_at is not null;
  end;
grant create on schema mayfly to mayfly_system;
alter function mayfly.live_anywhere(text[]) owner to mayfly_system;
revoke create on schema mayfly from mayfly_system;
grant select (id) on mayfly.credentials to mayfly_system;
