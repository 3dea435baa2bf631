-- The statements that run for every request, as functions: one round trip each, and each takes an array, so that
-- requests that arrive together share a statement and a commit (src/lib/batch.ts). All run as the caller, under
-- row-level security, for one tenant.

create function mayfly.ms(at timestamptz) returns bigint language sql immutable
  return floor(extract(epoch from at) * 1000)::bigint;

-- Items: {source_id, pairs: [[claim, value], …], source_version?, jti_hash?, jti_expires_ms?}. Confirms that the trust source is still
-- what the process cached, finds the identities that the token may be, and consumes a single-use token.
create function mayfly.authenticate(p_tenant text, p_items jsonb) returns table (ord int, facts jsonb)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
declare
  item record;
  fresh int;
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  for item in select x.value, x.ordinality from jsonb_array_elements(p_items) with ordinality x loop
    fresh := 1;
    -- Only for the source as the caller knows it: a newer one is read and judged again first.
    if item.value ? 'jti_hash' and exists (select from trust_sources s where s.tenant_id = p_tenant
        and s.id = item.value ->> 'source_id' and s.version = (item.value ->> 'source_version')::int) then
      insert into seen_tokens (tenant_id, trust_source_id, jti_hash, expires_at)
      values (p_tenant, item.value ->> 'source_id', decode(item.value ->> 'jti_hash', 'hex'),
              to_timestamp((item.value ->> 'jti_expires_ms')::bigint / 1000.0))
      on conflict do nothing;
      get diagnostics fresh = row_count;
    end if;
    ord := item.ordinality;
    facts := (
      select jsonb_build_object(
        'tenant_state', t.state, 'source_version', s.version, 'source_state', s.state, 'fresh', fresh = 1,
        'identities', coalesce((
          select jsonb_agg(jsonb_build_object('id', i.id, 'agent_id', i.agent_id, 'conditions', i.conditions))
            from jsonb_array_elements(item.value -> 'pairs') p
            join identities i on i.tenant_id = p_tenant and i.trust_source_id = s.id
             and i.anchor_claim = p.value ->> 0 and i.anchor_value = p.value ->> 1), '[]'))
        from tenants t left join trust_sources s on s.tenant_id = t.id and s.id = item.value ->> 'source_id'
       where t.id = p_tenant);
    return next;
  end loop;
end $$;

-- Items: {agent_id, task_id, target, resources: [id or name, …]}. Everything that the record checks and the policy
-- look at, in one statement. Times are milliseconds of the database's clock.
create function mayfly.mint_load(p_tenant text, p_items jsonb) returns table (ord int, facts jsonb)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  select i.ordinality::int, jsonb_build_object(
      'now_ms', ms(clock_timestamp()),
      'tenant_state', tn.state,
      'policy_version', ps.policy_version,
      'agent', case when a.id is not null then jsonb_build_object('id', a.id, 'kind', a.kind, 'name', a.name,
        'environment', a.environment, 'state', a.state, 'owner_id', a.owner_id, 'owner_status', o.status) end,
      'task', case when t.id is not null then jsonb_build_object('id', t.id, 'agent_id', t.agent_id, 'state', t.state,
        'deadline_ms', ms(t.deadline), 'heartbeat_due_ms', ms(m.heartbeat_due_at), 'initiated_by', t.initiated_by,
        'max_credentials', t.max_credentials, 'max_per_minute', t.max_per_minute, 'max_live_seconds', t.max_live_seconds,
        'issued', m.issued, 'issued_live_seconds', m.issued_live_seconds,
        'issued_in_minute', case when m.minute_starts_at > now() - interval '1 minute' then m.issued_in_minute else 0 end) end,
      'purpose', case when p.id is not null then jsonb_build_object('id', p.id, 'name', p.name, 'state', p.state,
        'agent_id', p.agent_id, 'actions', p.actions, 'resource_ids', p.resource_ids, 'data_classes', p.data_classes,
        'environments', p.environments, 'max_ttl_seconds', p.max_ttl_seconds, 'expires_ms', ms(p.expires_at),
        'review_by_ms', ms(p.review_by)) end,
      'target', case when g.id is not null then jsonb_build_object('id', g.id, 'name', g.name, 'issuer', g.issuer,
        'state', g.state, 'owner_status', go.status, 'max_ttl_seconds', g.max_ttl_seconds, 'version', g.version) end,
      'resources', coalesce((
        select jsonb_agg(jsonb_build_object('asked', q.value #>> '{}', 'id', r.id, 'name', r.name, 'kind', r.kind,
            'classification', r.classification, 'environment', r.environment, 'risk', r.risk, 'groups', r.groups,
            'operations', r.operations, 'access', tr.access) order by q.ordinality)
          from jsonb_array_elements(i.value -> 'resources') with ordinality q
          join resources r on r.tenant_id = p_tenant and (r.id = q.value #>> '{}' or r.name = q.value #>> '{}')
          join target_resources tr on tr.tenant_id = p_tenant and tr.target_id = g.id and tr.resource_id = r.id), '[]'),
      'relationships', coalesce((
        select jsonb_agg(jsonb_build_object('subject', x.subject, 'relation', x.relation, 'object', x.object) order by x.object, x.relation)
          from relationships x where x.tenant_id = p_tenant and x.subject = a.id), '[]'))
    from jsonb_array_elements(p_items) with ordinality i
    join tenants tn on tn.id = p_tenant
    left join policy_sets ps on ps.tenant_id = p_tenant and ps.active
    left join agents a on a.tenant_id = p_tenant and a.id = i.value ->> 'agent_id'
    left join owners o on o.tenant_id = p_tenant and o.id = a.owner_id
    left join tasks t on t.tenant_id = p_tenant and t.id = i.value ->> 'task_id'
    left join task_meters m on m.tenant_id = p_tenant and m.task_id = t.id
    left join purposes p on p.tenant_id = p_tenant and p.id = t.purpose_id
    left join targets g on g.tenant_id = p_tenant and (g.id = i.value ->> 'target' or g.name = i.value ->> 'target')
    left join owners go on go.tenant_id = p_tenant and go.id = g.owner_id;
end $$;

-- Whether a kill switch's selector means a credential: every member that it names must hold.
create function mayfly.selects(p_selector jsonb, p_credential jsonb) returns boolean language sql immutable
  return (p_selector - array['resource_id', 'issued_before', 'everything']) <@ p_credential
    and (not p_selector ? 'resource_id' or p_credential -> 'resource_ids' ? (p_selector ->> 'resource_id'));

-- Commits intents (invariants 1, 3, 8). Whoever ends a task, suspends an agent or takes a target away updates that row
-- first and takes credentials back in a later statement of the same transaction. The share locks below make a mint
-- either commit before that (and be taken back by it) or see the new state here and be left out. Locks are taken in one
-- order everywhere: the tenant, tasks, agents, targets, each by id. What is left out answers 'changed': the caller loads
-- again to find the reason; or 'blocked': the kill switch was told to let nothing of the kind through.
create function mayfly.mint_commit(p_tenant text, p_items jsonb) returns table (ord int, outcome text)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  perform 1 from tenants x where x.id = p_tenant for share;
  perform 1 from tasks x where x.tenant_id = p_tenant
    and x.id in (select i ->> 'task_id' from jsonb_array_elements(p_items) i) order by x.id for share;
  perform 1 from agents x where x.tenant_id = p_tenant
    and x.id in (select i ->> 'agent_id' from jsonb_array_elements(p_items) i) order by x.id for share;
  perform 1 from targets x where x.tenant_id = p_tenant
    and x.id in (select i ->> 'target_id' from jsonb_array_elements(p_items) i) order by x.id for share;
  -- Counting then inserting needs the counter locked: READ COMMITTED let 17 of 10 through (reliability C12).
  perform 1 from task_meters x where x.tenant_id = p_tenant
    and x.task_id in (select i ->> 'task_id' from jsonb_array_elements(p_items) i) order by x.task_id for no key update;

  return query
  with item as materialized (
    select i.ordinality::int as ord, i.value as raw, x.*,
           row_number() over (partition by x.task_id order by i.ordinality) as nth,
           sum(x.ttl_seconds) over (partition by x.task_id order by i.ordinality) as seconds,
           exists (select from revocations v where v.tenant_id = p_tenant and v.blocks_until > clock_timestamp()
             and mayfly.selects(v.selector, i.value)) as blocked
      from jsonb_array_elements(p_items) with ordinality i,
           jsonb_to_record(i.value) as x (id text, agent_id text, owner_id text, identity_id text, task_id text,
             purpose_id text, target_id text, target_version int, policy_version int, issuer text, self_contained boolean,
             revocability text, environment text, data_class text, binding text, requested_ttl_seconds int, ttl_seconds int,
             ttl_bound text, downstream_name text, handle_sealed text, requested_by text, request_id text,
             create_within_ms int, expires_ms bigint, decision_id text, determining jsonb, reasons jsonb, input jsonb,
             input_hash text)
  ), good as materialized (
    select i.* from item i
      join tenants tn on tn.id = p_tenant and tn.state = 'active'
      join tasks t on t.tenant_id = p_tenant and t.id = i.task_id and t.state = 'open' and t.agent_id = i.agent_id
       and t.purpose_id = i.purpose_id and t.deadline >= to_timestamp(i.expires_ms / 1000.0) and t.deadline > clock_timestamp()
      join task_meters m on m.tenant_id = p_tenant and m.task_id = t.id
       and (m.heartbeat_due_at is null or m.heartbeat_due_at > clock_timestamp())
       and (t.max_credentials is null or m.issued + i.nth <= t.max_credentials)
       and (t.max_live_seconds is null or m.issued_live_seconds + i.seconds <= t.max_live_seconds)
       and (t.max_per_minute is null or i.nth + case when m.minute_starts_at > now() - interval '1 minute'
            then m.issued_in_minute else 0 end <= t.max_per_minute)
      join agents a on a.tenant_id = p_tenant and a.id = i.agent_id and a.state = 'active' and a.owner_id = i.owner_id
      join owners o on o.tenant_id = p_tenant and o.id = a.owner_id and o.status = 'active'
      join purposes p on p.tenant_id = p_tenant and p.id = i.purpose_id and p.state = 'approved' and p.review_by > now()
       and p.expires_at >= to_timestamp(i.expires_ms / 1000.0)
      join targets g on g.tenant_id = p_tenant and g.id = i.target_id and g.state = 'active' and g.version = i.target_version
      join owners go on go.tenant_id = p_tenant and go.id = g.owner_id and go.status = 'active'
      join policy_sets ps on ps.tenant_id = p_tenant and ps.active and ps.policy_version = i.policy_version
     where not i.blocked and to_timestamp(i.expires_ms / 1000.0) > clock_timestamp()
       and (i.identity_id is null or exists (
         select from identities n join trust_sources s on s.tenant_id = p_tenant and s.id = n.trust_source_id and s.state = 'active'
          where n.tenant_id = p_tenant and n.id = i.identity_id))
  ), decided as (
    insert into decisions (tenant_id, id, agent_id, task_id, outcome, policy_version, determining, reasons, input, input_hash)
    select p_tenant, g.decision_id, g.agent_id, g.task_id, 'allow', g.policy_version,
           array(select jsonb_array_elements_text(g.determining)), g.reasons, g.input, g.input_hash
      from good g
  ), minted as (
    insert into credentials (tenant_id, id, agent_id, owner_id, identity_id, task_id, purpose_id, target_id, decision_id,
        issuer, self_contained, revocability, environment, data_class, binding, actions, resource_ids, access,
        requested_ttl_seconds, ttl_seconds, ttl_bound, downstream_name, handle_sealed, requested_by, request_id,
        create_by, expires_at, state, state_by, state_reason, due_at, activated_at)
    select p_tenant, g.id, g.agent_id, g.owner_id, g.identity_id, g.task_id, g.purpose_id, g.target_id, g.decision_id,
        g.issuer, g.self_contained, g.revocability, g.environment, g.data_class, g.binding,
        array(select jsonb_array_elements_text(g.raw -> 'actions')), array(select jsonb_array_elements_text(g.raw -> 'resource_ids')),
        g.raw -> 'access', g.requested_ttl_seconds, g.ttl_seconds, g.ttl_bound, g.downstream_name,
        decode(g.handle_sealed, 'base64'), g.requested_by, g.request_id,
        clock_timestamp() + make_interval(secs => g.create_within_ms / 1000.0), to_timestamp(g.expires_ms / 1000.0),
        case when g.self_contained then 'active' else 'pending' end, g.requested_by, 'minted',
        case when g.self_contained then to_timestamp(g.expires_ms / 1000.0)
             else clock_timestamp() + make_interval(secs => g.create_within_ms / 1000.0) end,
        case when g.self_contained then now() end
      from good g
    returning task_id, ttl_seconds
  ), counted as (
    update task_meters m set
        issued = m.issued + n.number, issued_live_seconds = m.issued_live_seconds + n.seconds,
        issued_in_minute = n.number + case when m.minute_starts_at > now() - interval '1 minute' then m.issued_in_minute else 0 end,
        minute_starts_at = case when m.minute_starts_at > now() - interval '1 minute' then m.minute_starts_at else now() end
      from (select c.task_id, count(*)::int as number, sum(c.ttl_seconds)::bigint as seconds from minted c group by 1) n
     where m.tenant_id = p_tenant and m.task_id = n.task_id
  )
  select i.ord, case when i.blocked then 'blocked' when g.ord is null then 'changed' else 'committed' end
    from item i left join good g on g.ord = i.ord;
end $$;

-- pending → active, if nobody took it back meanwhile and its time to be created has not passed. Items: {id, expires_ms?}.
create function mayfly.mint_activate(p_tenant text, p_items jsonb) returns table (ord int, outcome text)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  with item as materialized (
    select i.ordinality::int as ord, i.value ->> 'id' as id, (i.value ->> 'expires_ms')::bigint as expires_ms
      from jsonb_array_elements(p_items) with ordinality i
  ), done as (
    update credentials c set state = 'active', state_at = now(), state_by = c.requested_by, state_reason = 'issued',
        activated_at = clock_timestamp(),
        expires_at = least(c.expires_at, to_timestamp(i.expires_ms / 1000.0)),
        due_at = least(c.expires_at, to_timestamp(i.expires_ms / 1000.0))
      from item i
     where c.tenant_id = p_tenant and c.id = i.id and c.state = 'pending' and c.create_by > clock_timestamp()
    returning c.id
  )
  select i.ord, case when d.id is null then 'gone' else 'active' end from item i left join done d on d.id = i.id;
end $$;

-- A refusal is evidence too (invariant 8). Items: {actor, agent_id?, task_id?, request_id, data, decision?}.
create function mayfly.record_denial(p_tenant text, p_items jsonb) returns table (ord int, outcome text)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  with item as materialized (
    select i.ordinality::int as ord, i.value as v from jsonb_array_elements(p_items) with ordinality i
  ), decided as (
    insert into decisions (tenant_id, id, agent_id, task_id, outcome, policy_version, determining, reasons, input, input_hash)
    select p_tenant, v -> 'decision' ->> 'id', v ->> 'agent_id', v ->> 'task_id', v -> 'decision' ->> 'outcome',
           (v -> 'decision' ->> 'policy_version')::int, array(select jsonb_array_elements_text(v -> 'decision' -> 'determining')),
           v -> 'decision' -> 'reasons', v -> 'decision' -> 'input', v -> 'decision' ->> 'input_hash'
      from item where v ? 'decision'
  ), told as (
    insert into audit_events (tenant_id, type, actor, agent_id, task_id, data, request_id)
    select p_tenant, 'credential.denied', v ->> 'actor', v ->> 'agent_id', v ->> 'task_id', v -> 'data', v ->> 'request_id' from item
  )
  select i.ord, 'recorded' from item i;
end $$;

-- What introspection needs to say whether a token is alive now (invariant 4): the credential and every reason it has.
create function mayfly.introspect(p_tenant text, p_items jsonb) returns table (ord int, facts jsonb)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  select i.ordinality::int, case when c.id is null then null else jsonb_build_object(
      'active', c.state = 'active' and c.expires_at > clock_timestamp() and t.state = 'open' and t.deadline > clock_timestamp()
        and (m.heartbeat_due_at is null or m.heartbeat_due_at > clock_timestamp())
        and a.state = 'active' and o.status = 'active' and tn.state = 'active',
      'target_id', c.target_id,
      'caller_serves', exists (select from relationships r where r.tenant_id = p_tenant and r.relation = 'serves'
        and r.subject = i.value ->> 'caller' and r.object = c.target_id)) end
    from jsonb_array_elements(p_items) with ordinality i
    left join credentials c on c.tenant_id = p_tenant and c.id = i.value ->> 'id'
    left join tasks t on t.tenant_id = p_tenant and t.id = c.task_id
    left join task_meters m on m.tenant_id = p_tenant and m.task_id = c.task_id
    left join agents a on a.tenant_id = p_tenant and a.id = c.agent_id
    left join owners o on o.tenant_id = p_tenant and o.id = a.owner_id
    left join tenants tn on tn.id = p_tenant;
end $$;

-- Events that describe no row of ours: refused requests and refused proofs. Items: {type, actor, …, data}.
create function mayfly.record_events(p_tenant text, p_items jsonb) returns table (ord int, outcome text)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  insert into audit_events (tenant_id, type, actor, subject_id, agent_id, task_id, data, request_id)
  select p_tenant, v ->> 'type', v ->> 'actor', v ->> 'subject_id', v ->> 'agent_id', v ->> 'task_id',
         coalesce(v -> 'data', '{}'), v ->> 'request_id'
    from jsonb_array_elements(p_items) v;
  return query select i.ordinality::int, 'recorded'::text from jsonb_array_elements(p_items) with ordinality i;
end $$;
