-- The statements that run for every request, as functions: one round trip each, and each takes an array, so that
-- requests that arrive together share a statement and a commit (src/lib/batch.ts). All run as the caller, under
-- row-level security, for one tenant.

create function mayfly.ms(at timestamptz) returns bigint language sql stable
  return floor(extract(epoch from at) * 1000)::bigint;

-- Items: {source_id, claims: {claim: value, …}, source_version?, jti_hash?, jti_expires_ms?}. Confirms that the trust source is still
-- what the process cached, finds the identities that the token may be, and consumes a single-use token. A jti_hash without
-- jti_expires_ms is looked for and not consumed: fresh if nobody has.
create function mayfly.authenticate(p_tenant text, p_items jsonb) returns table (ord int, facts json)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
declare
  taken int[];
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  if jsonb_path_exists(p_items, '$[*].jti_expires_ms') then
    with presented as (
      -- Only for the source as the caller knows it: a newer one is read and judged again first.
      select distinct on (i.source_id, i.jti_hash) i.ord, i.source_id, decode(i.jti_hash, 'hex') as jti_hash, to_timestamp(i.jti_expires_ms / 1000.0) as expires_at
        from rows from (jsonb_to_recordset(p_items) as (source_id text, source_version int, jti_hash text, jti_expires_ms bigint))
          with ordinality as i (source_id, source_version, jti_hash, jti_expires_ms, ord)
        join trust_sources s on s.tenant_id = p_tenant and s.id = i.source_id and s.version = i.source_version
       where i.jti_expires_ms is not null order by i.source_id, i.jti_hash, i.ord
    ), consumed as (
      insert into seen_tokens (tenant_id, trust_source_id, jti_hash, expires_at)
      select p_tenant, t.source_id, t.jti_hash, t.expires_at from presented t
      on conflict do nothing returning trust_source_id, jti_hash
    )
    select array_agg(t.ord::int) into taken from presented t join consumed c on c.trust_source_id = t.source_id and c.jti_hash = t.jti_hash;
  end if;
  return query
  select i.ord::int, json_build_object(
      'generation', gn.generation, 'tenant_state', t.state, 'source_version', s.version, 'source_state', s.state,
      'fresh', case
        when i.jti_hash is null or s.version is distinct from i.source_version then true
        when i.jti_expires_ms is not null then i.ord::int = any (coalesce(taken, '{}'))
        else not exists (select from seen_tokens c where c.tenant_id = p_tenant
          and c.trust_source_id = i.source_id and c.jti_hash = decode(i.jti_hash, 'hex')) end,
      'identities', coalesce((
        select json_agg(json_build_object('id', n.id, 'agent_id', n.agent_id, 'conditions', n.conditions))
          from jsonb_each_text(i.claims) as p (claim, value)
         cross join lateral (select n.id, n.agent_id, n.conditions from identities n
           where n.tenant_id = p_tenant and n.trust_source_id = i.source_id
             and n.anchor_claim = p.claim and n.anchor_value = p.value offset 0) n), '[]'))
    from rows from (jsonb_to_recordset(p_items) as (source_id text, claims jsonb, source_version int, jti_hash text, jti_expires_ms bigint))
      with ordinality as i (source_id, claims, source_version, jti_hash, jti_expires_ms, ord)
    join generations gn on gn.tenant_id = p_tenant
    join tenants t on t.id = p_tenant
    left join lateral (select x.version, x.state from trust_sources x
      where x.tenant_id = p_tenant and x.id = i.source_id offset 0) s on true;
end $$;

-- Items: {scope, hash, expires_ms}. Whether this is the first time that the thing is shown; of equal ones in a batch, one is.
create function mayfly.consume_once(p_tenant text, p_items jsonb) returns table (ord int, fresh boolean)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  with item as materialized (
    select i.ord::int as ord, i.scope, decode(i.hash, 'hex') as hash, to_timestamp(i.expires_ms / 1000.0) as expires_at,
           row_number() over (partition by i.scope, i.hash order by i.ord) as nth
      from rows from (jsonb_to_recordset(p_items) as (scope text, hash text, expires_ms bigint))
        with ordinality as i (scope, hash, expires_ms, ord)
  ), consumed as (
    insert into seen_tokens (tenant_id, trust_source_id, jti_hash, expires_at)
    select p_tenant, i.scope, i.hash, i.expires_at from item i where i.nth = 1 order by i.scope, i.hash
    on conflict do nothing returning trust_source_id, jti_hash
  )
  select i.ord, i.nth = 1 and c.jti_hash is not null from item i
    left join consumed c on c.trust_source_id = i.scope and c.jti_hash = i.hash;
end $$;

-- The generation of the tenant's registry, for callers that are remembered under one. Items are only counted.
create function mayfly.current_generation(p_tenant text, p_items jsonb) returns table (ord int, generation bigint)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query select o::int, g.generation from generations g cross join generate_series(1, jsonb_array_length(p_items)) o
   where g.tenant_id = p_tenant;
end $$;

-- A credential that another one is to be minted from; null when there is none with this id. Apart, as its sister below is: a
-- plan that names the credentials locks all their partitions, and most mints are from no credential.
create function mayfly.parent_facts(p_tenant text, p_id text) returns json language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  return (select json_build_object('id', c.id, 'agent_id', c.agent_id,
        'active', c.state = 'active' and c.expires_at > clock_timestamp(), 'expires_ms', ms(c.expires_at), 'actions', c.actions,
        'resource_ids', c.resource_ids, 'data_class', c.data_class, 'environment', c.environment, 'binding', c.binding,
        'confirmation', c.confirmation, 'target_id', c.target_id, 'delegation', c.delegation, 'chain', (
          select json_agg(json_build_object('id', x.id, 'agent_id', x.agent_id, 'task_id', x.task_id, 'budget', b.facts) order by l.nth)
            from unnest(c.ancestors || c.id) with ordinality l (id, nth)
            cross join lateral (select x.id, x.agent_id, x.task_id from credentials x where x.tenant_id = p_tenant and x.id = l.id offset 0) x
            cross join lateral (select json_build_object('max_credentials', t.max_credentials, 'max_per_minute', t.max_per_minute,
                'max_live_seconds', t.max_live_seconds, 'issued', m.issued, 'issued_live_seconds', m.issued_live_seconds,
                'issued_in_minute', case when m.minute_starts_at > now() - interval '1 minute' then m.issued_in_minute else 0 end) as facts
              from tasks t join task_meters m on m.tenant_id = p_tenant and m.task_id = x.task_id
             where t.tenant_id = p_tenant and t.id = x.task_id offset 0) b))
      from credentials c where c.tenant_id = p_tenant and c.id = p_id);
end $$;

-- Whether a whole chain is active, not ended before the new credential would, and held by this transaction.
create function mayfly.chain_is_held(p_tenant text, p_ancestors text[], p_held text[], p_expires_at timestamptz) returns boolean
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  return (select count(*) = cardinality(p_ancestors) from credentials c
    where c.tenant_id = p_tenant and c.id = any (p_ancestors) and c.id = any (p_held)
      and c.state = 'active' and c.expires_at >= p_expires_at);
end $$;

-- Items: {agent_id, task_id, target, resources: [id or name, …], parent_id?}. Everything that the record checks and the policy
-- look at, in one statement. Each lookup is a subquery of its own (offset 0) by primary key: left to itself the planner
-- picks joins by statistics that a young table does not have, and read every task of the tenant for one mint.
create function mayfly.mint_load(p_tenant text, p_items jsonb) returns table (ord int, facts json)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  select i.ord::int, json_build_object(
      'generation', gn.generation,
      'now_ms', ms(clock_timestamp()),
      'tenant_state', tn.state,
      'signing_kid', (select sk.kid from signing_keys sk where sk.tenant_id = p_tenant and sk.purpose = 'access_token' and sk.state = 'active'),
      'policy_version', (select ps.policy_version from policy_sets ps where ps.tenant_id = p_tenant and ps.active),
      'task', k.facts, 'agent', a.facts, 'purpose', p.facts, 'target', g.facts,
      'parent', case when i.parent_id is not null then mayfly.parent_facts(p_tenant, i.parent_id) end,
      'resources', coalesce((
        select json_agg(json_build_object('asked', q.asked, 'id', r.id, 'name', r.name, 'kind', r.kind,
            'classification', r.classification, 'environment', r.environment, 'risk', r.risk, 'groups', r.groups,
            'operations', r.operations, 'access', r.access) order by q.nth)
          from unnest(i.resources) with ordinality q (asked, nth)
          cross join lateral (select r.*, tr.access from resources r
            join target_resources tr on tr.tenant_id = p_tenant and tr.target_id = g.id and tr.resource_id = r.id
           where r.tenant_id = p_tenant and r.id = coalesce(
             (select x.id from resources x where x.tenant_id = p_tenant and x.id = q.asked),
             (select x.id from resources x where x.tenant_id = p_tenant and x.name = q.asked)) offset 0) r), '[]'),
      'relationships', coalesce((
        select json_agg(json_build_object('subject', x.subject, 'relation', x.relation, 'object', x.object) order by x.object, x.relation)
          from relationships x where x.tenant_id = p_tenant and x.subject = i.agent_id), '[]'))
    from rows from (jsonb_to_recordset(p_items) as (agent_id text, task_id text, target text, resources text[], parent_id text))
      with ordinality as i (agent_id, task_id, target, resources, parent_id, ord)
    join generations gn on gn.tenant_id = p_tenant
    join tenants tn on tn.id = p_tenant
    left join lateral (select t.purpose_id, json_build_object('id', t.id, 'agent_id', t.agent_id, 'state', t.state,
        'deadline_ms', ms(t.deadline), 'heartbeat_due_ms', ms(m.heartbeat_due_at), 'initiated_by', t.initiated_by,
        'max_credentials', t.max_credentials, 'max_per_minute', t.max_per_minute, 'max_live_seconds', t.max_live_seconds,
        'issued', m.issued, 'issued_live_seconds', m.issued_live_seconds,
        'issued_in_minute', case when m.minute_starts_at > now() - interval '1 minute' then m.issued_in_minute else 0 end) as facts
      from tasks t join task_meters m on m.tenant_id = p_tenant and m.task_id = i.task_id
     where t.tenant_id = p_tenant and t.id = i.task_id offset 0) k on true
    left join lateral (select json_build_object('id', a.id, 'kind', a.kind, 'name', a.name,
        'environment', a.environment, 'state', a.state, 'owner_id', a.owner_id, 'owner_status', o.status,
        'bearer_ttl_seconds', a.bearer_ttl_seconds) as facts
      from agents a join owners o on o.tenant_id = p_tenant and o.id = a.owner_id
     where a.tenant_id = p_tenant and a.id = i.agent_id offset 0) a on true
    left join lateral (select json_build_object('id', p.id, 'name', p.name, 'state', p.state,
        'agent_id', p.agent_id, 'actions', p.actions, 'resource_ids', p.resource_ids, 'data_classes', p.data_classes,
        'environments', p.environments, 'max_ttl_seconds', p.max_ttl_seconds, 'expires_ms', ms(p.expires_at),
        'review_by_ms', ms(p.review_by)) as facts
      from purposes p where p.tenant_id = p_tenant and p.id = k.purpose_id offset 0) p on true
    left join lateral (select g.id, json_build_object('id', g.id, 'name', g.name, 'issuer', g.issuer,
        'state', g.state, 'owner_status', o.status, 'max_ttl_seconds', g.max_ttl_seconds, 'version', g.version) as facts
      from targets g join owners o on o.tenant_id = p_tenant and o.id = g.owner_id
     where g.tenant_id = p_tenant and g.id = coalesce(
       (select x.id from targets x where x.tenant_id = p_tenant and x.id = i.target),
       (select x.id from targets x where x.tenant_id = p_tenant and x.name = i.target),
       -- OAuth names a target by its audience (RFC 8707), which is no id and no name. Two that share one are none.
       (select min(x.id) from targets x where x.tenant_id = p_tenant and x.issuer = 'jwt' and x.state <> 'retired'
           and x.config ->> 'audience' = i.target having count(*) = 1)) offset 0) g on true;
end $$;

-- Whether a kill switch's selector means a credential: every member that it names must hold.
create function mayfly.selects(p_selector jsonb, p_credential jsonb) returns boolean language sql immutable
  return (p_selector - array['resource_id', 'issued_before', 'everything']) <@ p_credential
    and (not p_selector ? 'resource_id' or p_credential -> 'resource_ids' ? (p_selector ->> 'resource_id'));

-- Commits intents (invariants 1, 3, 8). The facts that a decision was made on are still true here if nothing in the
-- registry has changed since they were read, and the generation says so: whoever changes the registry takes the tenant's
-- gate alone and makes a new generation, in one transaction (0002). A mint passes the gate with others, so either it
-- commits before such a change (and is taken back by a later statement of that change) or waits and sees the new
-- generation. A task's own state is looked at under the lock on its meter, which ending and pausing it take too. A
-- credential that is minted from another one needs the whole chain above it active, under lock: whoever takes back one of
-- the chain finds the new one, or is found (invariant 7). Locks in one order: the gate, then meters by task, then the chain,
-- and there nobody waits: who takes back may hold what we want and want what we hold. What is left out answers 'changed': the caller loads again to find the
-- reason; or 'blocked': the kill switch was told to let nothing of the kind through.
create function mayfly.mint_commit(p_tenant text, p_items jsonb) returns table (ord int, outcome text, now_ms bigint)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
declare
  present bigint;
  blocking boolean;
  held text[];
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  perform pg_advisory_xact_lock_shared(gate(p_tenant));
  -- Counting then inserting needs the counter locked: READ COMMITTED let 17 of 10 through (reliability C12).
  perform 1 from (select distinct c.task_id from jsonb_to_recordset(p_items) as x (task_id text, charged_tasks text[])
      cross join unnest(x.charged_tasks || x.task_id) c (task_id) order by 1) t
    cross join lateral (select 1 from task_meters m where m.tenant_id = p_tenant and m.task_id = t.task_id for no key update) m;
  if jsonb_path_exists(p_items, '$[*].ancestors') then
    select array_agg(h.id) into held from (
      select c.id from (select distinct a.id from jsonb_to_recordset(p_items) as x (ancestors text[]) cross join unnest(x.ancestors) a (id)) a
        cross join lateral (select c.id from credentials c where c.tenant_id = p_tenant and c.id = a.id for share skip locked) c) h;
  end if;
  -- Only now, in statements of their own: what these see is as it is under the locks.
  select g.generation, exists (select from revocations v where v.tenant_id = p_tenant and v.blocks_until > clock_timestamp())
    into present, blocking from generations g where g.tenant_id = p_tenant;

  return query
  with item as materialized (
    select i.*,
           to_timestamp(i.expires_ms / 1000.0) as expires_at,
           blocking and exists (select from revocations v where v.tenant_id = p_tenant and v.blocks_until > clock_timestamp()
             and mayfly.selects(v.selector, p_items -> (i.ord - 1)::int)) as blocked
      from rows from (jsonb_to_recordset(p_items) as (generation bigint, facts_until_ms bigint, id text, agent_id text, owner_id text,
             identity_id text, task_id text, purpose_id text, target_id text, policy_version int, issuer text, self_contained boolean,
             revocability text, environment text, data_class text, binding text, confirmation jsonb,
             parent_id text, ancestors text[], charged_tasks text[], delegation jsonb, signing_kid text, status_list text, status_index int,
             actions text[], resource_ids text[], access jsonb,
             requested_ttl_seconds int, ttl_seconds int, ttl_bound text, downstream_name text, handle_sealed text, requested_by text,
             request_id text, create_within_ms int, expires_ms bigint, decision_id text, determining text[], reasons jsonb, input jsonb,
             input_hash text)) with ordinality as i (generation, facts_until_ms, id, agent_id, owner_id,
             identity_id, task_id, purpose_id, target_id, policy_version, issuer, self_contained,
             revocability, environment, data_class, binding, confirmation,
             parent_id, ancestors, charged_tasks, delegation, signing_kid, status_list, status_index,
             actions, resource_ids, access,
             requested_ttl_seconds, ttl_seconds, ttl_bound, downstream_name, handle_sealed, requested_by,
             request_id, create_within_ms, expires_ms, decision_id, determining, reasons, input,
             input_hash, ord)
  ), charge as materialized (
    -- What is minted from a credential is charged to every task of the chain: passing on is no way around a budget.
    select c.ord, c.task_id, c.ttl_seconds, count(*) over (partition by c.ord) as number,
           row_number() over (partition by c.task_id order by c.ord) as nth,
           sum(c.ttl_seconds) over (partition by c.task_id order by c.ord) as seconds
      from (select distinct i.ord, i.ttl_seconds, x.task_id from item i cross join unnest(i.charged_tasks || i.task_id) x (task_id)) c
  ), good as materialized (
    select i.* from item i
      cross join lateral (select from tasks t
       where t.tenant_id = p_tenant and t.id = i.task_id and t.state = 'open' and t.agent_id = i.agent_id
         and t.purpose_id = i.purpose_id and t.deadline >= i.expires_at offset 0) t
      cross join lateral (select from charge c
        cross join lateral (select from tasks t join task_meters m on m.tenant_id = p_tenant and m.task_id = c.task_id
         where t.tenant_id = p_tenant and t.id = c.task_id and t.state = 'open'
           and (m.heartbeat_due_at is null or m.heartbeat_due_at > clock_timestamp())
           and (t.max_credentials is null or m.issued + c.nth <= t.max_credentials)
           and (t.max_live_seconds is null or m.issued_live_seconds + c.seconds <= t.max_live_seconds)
           and (t.max_per_minute is null or c.nth + case when m.minute_starts_at > now() - interval '1 minute'
                then m.issued_in_minute else 0 end <= t.max_per_minute) offset 0) t
       where c.ord = i.ord having count(*) = max(c.number)) b
     where i.generation = present and not i.blocked
       and (i.ancestors is null or mayfly.chain_is_held(p_tenant, i.ancestors, held, i.expires_at)) and i.expires_at > clock_timestamp()
       -- The caller may only think what time it is here. Nobody lives longer for that (invariant 2).
       and i.expires_at <= clock_timestamp() + make_interval(secs => i.ttl_seconds)
       and to_timestamp(i.facts_until_ms / 1000.0) > clock_timestamp()
  ), decided as (
    insert into decisions (tenant_id, id, agent_id, task_id, outcome, policy_version, determining, reasons, input, input_hash)
    select p_tenant, g.decision_id, g.agent_id, g.task_id, 'allow', g.policy_version,
           g.determining, g.reasons, g.input, g.input_hash
      from good g
  ), minted as (
    insert into credentials (tenant_id, id, agent_id, owner_id, identity_id, task_id, purpose_id, target_id, decision_id,
        issuer, self_contained, revocability, environment, data_class, binding, confirmation,
        parent_id, ancestors, delegation, signing_kid, status_list, status_index,
        actions, resource_ids, access,
        requested_ttl_seconds, ttl_seconds, ttl_bound, downstream_name, handle_sealed, requested_by, request_id,
        create_by, expires_at, state, state_by, state_reason, due_at, activated_at)
    select p_tenant, g.id, g.agent_id, g.owner_id, g.identity_id, g.task_id, g.purpose_id, g.target_id, g.decision_id,
        g.issuer, g.self_contained, g.revocability, g.environment, g.data_class, g.binding, g.confirmation,
        g.parent_id, g.ancestors, g.delegation, g.signing_kid, g.status_list, g.status_index,
        g.actions, g.resource_ids,
        g.access, g.requested_ttl_seconds, g.ttl_seconds, g.ttl_bound, g.downstream_name,
        decode(g.handle_sealed, 'base64'), g.requested_by, g.request_id,
        g.create_by, g.expires_at,
        case when g.self_contained then 'active' else 'pending' end, g.requested_by, 'minted',
        case when g.self_contained then g.expires_at else g.create_by end,
        case when g.self_contained then now() end
      from (select x.*, clock_timestamp() + make_interval(secs => x.create_within_ms / 1000.0) as create_by from good x) g
  ), counted as (
    update task_meters m set
        issued = m.issued + n.number, issued_live_seconds = m.issued_live_seconds + n.seconds,
        issued_in_minute = n.number + case when m.minute_starts_at > now() - interval '1 minute' then m.issued_in_minute else 0 end,
        minute_starts_at = case when m.minute_starts_at > now() - interval '1 minute' then m.minute_starts_at else now() end
      from (select c.task_id, count(*)::int as number, sum(c.ttl_seconds)::bigint as seconds
              from charge c join good g on g.ord = c.ord group by 1) n
     where m.tenant_id = p_tenant and m.task_id = n.task_id
  )
  select i.ord::int, case when i.blocked then 'blocked' when g.ord is null then 'changed' else 'committed' end, ms(clock_timestamp())
    from item i left join good g on g.ord = i.ord;
end $$;

-- The ids of items. Rows are looked up by these and joined to the items after: row-level security keeps a join on `v ->> 'id'`
-- from being a search in an index, and whatever the planner believes of a table, it does not read all of it for an array.
create function mayfly.ids(p_items jsonb) returns text[] language sql immutable
  return array(select v ->> 'id' from jsonb_array_elements(p_items) v);

-- pending → active, if nobody took it back meanwhile and its time to be created has not passed. Items: {id, expires_ms?}.
create function mayfly.mint_activate(p_tenant text, p_items jsonb) returns table (ord int, outcome text)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
declare
  ids text[] := ids(p_items);
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  with item as materialized (
    -- By id, as everybody locks credentials.
    select i.ordinality::int as ord, i.value ->> 'id' as id, (i.value ->> 'expires_ms')::bigint as expires_ms
      from jsonb_array_elements(p_items) with ordinality i order by 2
  ), done as (
    update credentials c set state = 'active', state_at = now(), state_by = c.requested_by, state_reason = 'issued',
        activated_at = clock_timestamp(),
        expires_at = least(c.expires_at, to_timestamp(i.expires_ms / 1000.0)),
        due_at = least(c.expires_at, to_timestamp(i.expires_ms / 1000.0))
      from item i
     where c.tenant_id = p_tenant and c.id = any (ids) and c.id = i.id and c.state = 'pending' and c.create_by > clock_timestamp()
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
  select i.ord::int, json_build_object('generation', gn.generation,
      'active', coalesce(c.state = 'active' and h.alive and c.expires_at > clock_timestamp() and t.state = 'open' and t.deadline > clock_timestamp()
        and (t.heartbeat_due_at is null or t.heartbeat_due_at > clock_timestamp())
        and a.state = 'active' and a.owner_status = 'active' and tn.state = 'active', false),
      'caller_serves', exists (select from relationships r where r.tenant_id = p_tenant and r.relation = 'serves'
        and r.subject = i.caller and r.object = c.target_id))
    from rows from (jsonb_to_recordset(p_items) as (id text, caller text)) with ordinality as i (id, caller, ord)
    join generations gn on gn.tenant_id = p_tenant
    join tenants tn on tn.id = p_tenant
    left join lateral (select x.id, x.state, x.expires_at, x.target_id, x.task_id, x.agent_id, x.ancestors from credentials x
      where x.tenant_id = p_tenant and x.id = i.id offset 0) c on true
    -- Taking back one of the chain takes this one too; a heartbeat that was lost a moment ago has not been acted on yet.
    cross join lateral (select coalesce(bool_and(x.state = 'active' and (m.heartbeat_due_at is null or m.heartbeat_due_at > clock_timestamp())), true) as alive
        from unnest(c.ancestors) l (id)
        cross join lateral (select x.state, x.task_id from credentials x where x.tenant_id = p_tenant and x.id = l.id offset 0) x
        cross join lateral (select y.heartbeat_due_at from task_meters y where y.tenant_id = p_tenant and y.task_id = x.task_id offset 0) m) h
    left join lateral (select x.state, x.deadline, y.heartbeat_due_at from tasks x
      join task_meters y on y.tenant_id = p_tenant and y.task_id = c.task_id
      where x.tenant_id = p_tenant and x.id = c.task_id offset 0) t on true
    left join lateral (select x.state, y.status as owner_status from agents x
      join owners y on y.tenant_id = p_tenant and y.id = x.owner_id
      where x.tenant_id = p_tenant and x.id = c.agent_id offset 0) a on true;
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
      and p.proname in ('authenticate', 'current_generation', 'mint_load', 'mint_commit', 'mint_activate', 'introspect') loop
    execute format('alter function %s set plan_cache_mode = force_generic_plan set join_collapse_limit = 1 set enable_seqscan = off
      set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off', f);
  end loop;
end $$;
