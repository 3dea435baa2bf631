-- The statements that run for every request, as functions: one round trip each, and each takes an array, so that
-- requests that arrive together share a statement and a commit (src/lib/batch.ts). All run as the caller, under
-- row-level security, for one tenant.

create function mayfly.ms(at timestamptz) returns bigint language sql stable
  return floor(extract(epoch from at) * 1000)::bigint;

-- Items: {source_id, claims: {claim: value, …}, source_version?, jti_hash?, jti_expires_ms?}. Confirms that the trust source is still
-- what the process cached, finds the identities that the token may be, and consumes a single-use token.
create function mayfly.authenticate(p_tenant text, p_items jsonb) returns table (ord int, facts json)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
declare
  taken int[];
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  if jsonb_path_exists(p_items, '$[*].jti_hash') then
    with presented as (
      -- Only for the source as the caller knows it: a newer one is read and judged again first.
      select distinct on (i.source_id, i.jti_hash) i.ord, i.source_id, decode(i.jti_hash, 'hex') as jti_hash, to_timestamp(i.jti_expires_ms / 1000.0) as expires_at
        from rows from (jsonb_to_recordset(p_items) as (source_id text, source_version int, jti_hash text, jti_expires_ms bigint))
          with ordinality as i (source_id, source_version, jti_hash, jti_expires_ms, ord)
        join trust_sources s on s.tenant_id = p_tenant and s.id = i.source_id and s.version = i.source_version
       where i.jti_hash is not null order by i.source_id, i.jti_hash, i.ord
    ), consumed as (
      insert into seen_tokens (tenant_id, trust_source_id, jti_hash, expires_at)
      select p_tenant, t.source_id, t.jti_hash, t.expires_at from presented t
      on conflict do nothing returning trust_source_id, jti_hash
    )
    select array_agg(t.ord::int) into taken from presented t join consumed c on c.trust_source_id = t.source_id and c.jti_hash = t.jti_hash;
  end if;
  return query
  select i.ord::int, json_build_object(
      'tenant_state', t.state, 'source_version', s.version, 'source_state', s.state,
      'fresh', i.jti_hash is null or s.version is distinct from i.source_version or i.ord::int = any (coalesce(taken, '{}')),
      'identities', coalesce((
        select json_agg(json_build_object('id', n.id, 'agent_id', n.agent_id, 'conditions', n.conditions))
          from jsonb_each_text(i.claims) as p (claim, value)
          join identities n on n.tenant_id = p_tenant and n.trust_source_id = i.source_id
           and n.anchor_claim = p.claim and n.anchor_value = p.value), '[]'))
    from rows from (jsonb_to_recordset(p_items) as (source_id text, claims jsonb, source_version int, jti_hash text))
      with ordinality as i (source_id, claims, source_version, jti_hash, ord)
    join tenants t on t.id = p_tenant
    left join trust_sources s on s.tenant_id = p_tenant and s.id = i.source_id;
end $$;

-- Items: {agent_id, task_id, target, resources: [id or name, …]}. Everything that the record checks and the policy
-- look at, in one statement. Times are milliseconds of the database's clock.
create function mayfly.mint_load(p_tenant text, p_items jsonb) returns table (ord int, facts json)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  select i.ord::int, json_build_object(
      'now_ms', ms(clock_timestamp()),
      'tenant_state', tn.state,
      'policy_version', ps.policy_version,
      'agent', case when a.id is not null then json_build_object('id', a.id, 'kind', a.kind, 'name', a.name,
        'environment', a.environment, 'state', a.state, 'owner_id', a.owner_id, 'owner_status', o.status) end,
      'task', case when t.id is not null then json_build_object('id', t.id, 'agent_id', t.agent_id, 'state', t.state,
        'deadline_ms', ms(t.deadline), 'heartbeat_due_ms', ms(m.heartbeat_due_at), 'initiated_by', t.initiated_by,
        'max_credentials', t.max_credentials, 'max_per_minute', t.max_per_minute, 'max_live_seconds', t.max_live_seconds,
        'issued', m.issued, 'issued_live_seconds', m.issued_live_seconds,
        'issued_in_minute', case when m.minute_starts_at > now() - interval '1 minute' then m.issued_in_minute else 0 end) end,
      'purpose', case when p.id is not null then json_build_object('id', p.id, 'name', p.name, 'state', p.state,
        'agent_id', p.agent_id, 'actions', p.actions, 'resource_ids', p.resource_ids, 'data_classes', p.data_classes,
        'environments', p.environments, 'max_ttl_seconds', p.max_ttl_seconds, 'expires_ms', ms(p.expires_at),
        'review_by_ms', ms(p.review_by)) end,
      'target', case when g.id is not null then json_build_object('id', g.id, 'name', g.name, 'issuer', g.issuer,
        'state', g.state, 'owner_status', go.status, 'max_ttl_seconds', g.max_ttl_seconds, 'version', g.version) end,
      'resources', coalesce((
        select json_agg(json_build_object('asked', q.asked, 'id', r.id, 'name', r.name, 'kind', r.kind,
            'classification', r.classification, 'environment', r.environment, 'risk', r.risk, 'groups', r.groups,
            'operations', r.operations, 'access', tr.access) order by q.nth)
          from unnest(i.resources) with ordinality q (asked, nth)
          join resources r on r.tenant_id = p_tenant and (r.id = q.asked or r.name = q.asked)
          join target_resources tr on tr.tenant_id = p_tenant and tr.target_id = g.id and tr.resource_id = r.id), '[]'),
      'relationships', coalesce((
        select json_agg(json_build_object('subject', x.subject, 'relation', x.relation, 'object', x.object) order by x.object, x.relation)
          from relationships x where x.tenant_id = p_tenant and x.subject = a.id), '[]'))
    from rows from (jsonb_to_recordset(p_items) as (agent_id text, task_id text, target text, resources text[]))
      with ordinality as i (agent_id, task_id, target, resources, ord)
    join tenants tn on tn.id = p_tenant
    left join policy_sets ps on ps.tenant_id = p_tenant and ps.active
    left join agents a on a.tenant_id = p_tenant and a.id = i.agent_id
    left join owners o on o.tenant_id = p_tenant and o.id = a.owner_id
    left join tasks t on t.tenant_id = p_tenant and t.id = i.task_id
    left join task_meters m on m.tenant_id = p_tenant and m.task_id = t.id
    left join purposes p on p.tenant_id = p_tenant and p.id = t.purpose_id
    left join targets g on g.tenant_id = p_tenant and (g.id = i.target or g.name = i.target)
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
declare
  task_ids text[];
  agent_ids text[];
  target_ids text[];
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  select array_agg(distinct x.task_id), array_agg(distinct x.agent_id), array_agg(distinct x.target_id)
    into task_ids, agent_ids, target_ids
    from jsonb_to_recordset(p_items) as x (task_id text, agent_id text, target_id text);
  perform 1 from tenants x where x.id = p_tenant for share;
  perform 1 from tasks x where x.tenant_id = p_tenant and x.id = any (task_ids) order by x.id for share;
  perform 1 from agents x where x.tenant_id = p_tenant and x.id = any (agent_ids) order by x.id for share;
  perform 1 from targets x where x.tenant_id = p_tenant and x.id = any (target_ids) order by x.id for share;
  -- Counting then inserting needs the counter locked: READ COMMITTED let 17 of 10 through (reliability C12).
  perform 1 from task_meters x where x.tenant_id = p_tenant and x.task_id = any (task_ids) order by x.task_id for no key update;

  return query
  with item as materialized (
    select i.*,
           row_number() over (partition by i.task_id order by i.ord) as nth,
           sum(i.ttl_seconds) over (partition by i.task_id order by i.ord) as seconds,
           to_timestamp(i.expires_ms / 1000.0) as expires_at,
           clock_timestamp() + make_interval(secs => i.create_within_ms / 1000.0) as create_by,
           exists (select from revocations v where v.tenant_id = p_tenant and v.blocks_until > clock_timestamp()
             and mayfly.selects(v.selector, p_items -> (i.ord - 1)::int)) as blocked
      from rows from (jsonb_to_recordset(p_items) as (id text, agent_id text, owner_id text, identity_id text, task_id text,
             purpose_id text, target_id text, target_version int, policy_version int, issuer text, self_contained boolean,
             revocability text, environment text, data_class text, binding text, actions text[], resource_ids text[], access jsonb,
             requested_ttl_seconds int, ttl_seconds int,
             ttl_bound text, downstream_name text, handle_sealed text, requested_by text, request_id text,
             create_within_ms int, expires_ms bigint, decision_id text, determining text[], reasons jsonb, input jsonb,
             input_hash text)) with ordinality as i (id, agent_id, owner_id, identity_id, task_id,
             purpose_id, target_id, target_version, policy_version, issuer, self_contained,
             revocability, environment, data_class, binding, actions, resource_ids, access,
             requested_ttl_seconds, ttl_seconds,
             ttl_bound, downstream_name, handle_sealed, requested_by, request_id,
             create_within_ms, expires_ms, decision_id, determining, reasons, input,
             input_hash, ord)
  ), good as materialized (
    select i.* from item i
      join tenants tn on tn.id = p_tenant and tn.state = 'active'
      join tasks t on t.tenant_id = p_tenant and t.id = i.task_id and t.state = 'open' and t.agent_id = i.agent_id
       and t.purpose_id = i.purpose_id and t.deadline >= i.expires_at and t.deadline > clock_timestamp()
      join task_meters m on m.tenant_id = p_tenant and m.task_id = t.id
       and (m.heartbeat_due_at is null or m.heartbeat_due_at > clock_timestamp())
       and (t.max_credentials is null or m.issued + i.nth <= t.max_credentials)
       and (t.max_live_seconds is null or m.issued_live_seconds + i.seconds <= t.max_live_seconds)
       and (t.max_per_minute is null or i.nth + case when m.minute_starts_at > now() - interval '1 minute'
            then m.issued_in_minute else 0 end <= t.max_per_minute)
      join agents a on a.tenant_id = p_tenant and a.id = i.agent_id and a.state = 'active' and a.owner_id = i.owner_id
      join owners o on o.tenant_id = p_tenant and o.id = a.owner_id and o.status = 'active'
      join purposes p on p.tenant_id = p_tenant and p.id = i.purpose_id and p.state = 'approved' and p.review_by > now()
       and p.expires_at >= i.expires_at
      join targets g on g.tenant_id = p_tenant and g.id = i.target_id and g.state = 'active' and g.version = i.target_version
      join owners go on go.tenant_id = p_tenant and go.id = g.owner_id and go.status = 'active'
      join policy_sets ps on ps.tenant_id = p_tenant and ps.active and ps.policy_version = i.policy_version
      left join identities n on n.tenant_id = p_tenant and n.id = i.identity_id
      left join trust_sources s on s.tenant_id = p_tenant and s.id = n.trust_source_id
     where not i.blocked and i.expires_at > clock_timestamp() and (i.identity_id is null or s.state = 'active')
  ), decided as (
    insert into decisions (tenant_id, id, agent_id, task_id, outcome, policy_version, determining, reasons, input, input_hash)
    select p_tenant, g.decision_id, g.agent_id, g.task_id, 'allow', g.policy_version,
           g.determining, g.reasons, g.input, g.input_hash
      from good g
  ), minted as (
    insert into credentials (tenant_id, id, agent_id, owner_id, identity_id, task_id, purpose_id, target_id, decision_id,
        issuer, self_contained, revocability, environment, data_class, binding, actions, resource_ids, access,
        requested_ttl_seconds, ttl_seconds, ttl_bound, downstream_name, handle_sealed, requested_by, request_id,
        create_by, expires_at, state, state_by, state_reason, due_at, activated_at)
    select p_tenant, g.id, g.agent_id, g.owner_id, g.identity_id, g.task_id, g.purpose_id, g.target_id, g.decision_id,
        g.issuer, g.self_contained, g.revocability, g.environment, g.data_class, g.binding,
        g.actions, g.resource_ids,
        g.access, g.requested_ttl_seconds, g.ttl_seconds, g.ttl_bound, g.downstream_name,
        decode(g.handle_sealed, 'base64'), g.requested_by, g.request_id,
        g.create_by, g.expires_at,
        case when g.self_contained then 'active' else 'pending' end, g.requested_by, 'minted',
        case when g.self_contained then g.expires_at else g.create_by end,
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
  select i.ord::int, case when i.blocked then 'blocked' when g.ord is null then 'changed' else 'committed' end
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
create function mayfly.introspect(p_tenant text, p_items jsonb) returns table (ord int, facts json)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  select i.ord::int, case when c.id is null then null else json_build_object(
      'active', c.state = 'active' and c.expires_at > clock_timestamp() and t.state = 'open' and t.deadline > clock_timestamp()
        and (m.heartbeat_due_at is null or m.heartbeat_due_at > clock_timestamp())
        and a.state = 'active' and o.status = 'active' and tn.state = 'active',
      'target_id', c.target_id,
      'caller_serves', exists (select from relationships r where r.tenant_id = p_tenant and r.relation = 'serves'
        and r.subject = i.caller and r.object = c.target_id)) end
    from rows from (jsonb_to_recordset(p_items) as (id text, caller text)) with ordinality as i (id, caller, ord)
    join tenants tn on tn.id = p_tenant
    left join credentials c on c.tenant_id = p_tenant and c.id = i.id
    left join tasks t on t.tenant_id = p_tenant and t.id = c.task_id
    left join task_meters m on m.tenant_id = p_tenant and m.task_id = c.task_id
    left join agents a on a.tenant_id = p_tenant and a.id = c.agent_id
    left join owners o on o.tenant_id = p_tenant and o.id = a.owner_id;
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

-- Planning cost more than running: these functions join a dozen tables by primary key, for a handful of items, and
-- PL/pgSQL re-plans such statements again and again because it cannot know that every plan is the same one. So the plan
-- is made once per connection, in the order written, by index. (Six milliseconds of Postgres per mint before.)
do $$
declare
  f regprocedure;
begin
  for f in select p.oid::regprocedure from pg_proc p where p.pronamespace = 'mayfly'::regnamespace
      and p.proname in ('authenticate', 'mint_load', 'mint_commit', 'mint_activate', 'introspect') loop
    execute format('alter function %s set plan_cache_mode = force_generic_plan set join_collapse_limit = 1 set enable_seqscan = off
      set enable_hashjoin = off set enable_mergejoin = off set enable_material = off', f);
  end loop;
end $$;
