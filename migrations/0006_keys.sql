-- The life of a signing key, enforced here, so that no code path can break it:
--
--   pending ──► active ──► retiring ──► gone          and from each of them: compromised
--   (published)  (signs)   (published)
--
-- Of one tenant and purpose one key is active (0002). A key is never deleted, so that no kid ever comes back.
revoke delete on mayfly.signing_keys from mayfly_runtime;

create function mayfly.guard_signing_key() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    if new.state not in ('pending', 'active') then
      raise exception 'a signing key cannot begin as %', new.state using errcode = 'MF001';
    end if;
    return new;
  end if;
  if old.state <> new.state and new.state <> 'compromised' and (old.state, new.state) not in (
    ('pending', 'active'), ('active', 'retiring'), ('retiring', 'gone'))
  then
    raise exception 'a signing key cannot go from % to %', old.state, new.state using errcode = 'MF001';
  end if;
  if old.state = 'compromised' and new is distinct from old then
    raise exception 'a signing key that is compromised never changes again' using errcode = 'MF001';
  end if;
  if (new.tenant_id, new.kid, new.purpose, new.algorithm, new.public_jwk, new.created_at)
    is distinct from (old.tenant_id, old.kid, old.purpose, old.algorithm, old.public_jwk, old.created_at)
  then
    raise exception 'what a signing key is never changes' using errcode = 'MF001';
  end if;
  -- Who fetched the key set just before the key was in it may use that copy for max-age (src/keys/ages.ts).
  if old.state = 'pending' and new.state = 'active' and old.created_at > clock_timestamp() - interval '300 seconds' then
    raise exception 'a signing key must be published for 300 seconds before it signs' using errcode = 'MF001';
  end if;
  if old.state = 'retiring' and new.state = 'gone' and old.published_until > clock_timestamp() then
    raise exception 'a signing key is published as long as something that it signed may live' using errcode = 'MF001';
  end if;
  return new;
end $$;
create trigger guard before insert or update on mayfly.signing_keys
  for each row execute function mayfly.guard_signing_key();

-- Every process keeps keys under the generation of the registry that it read them at, and a mint commits only on the
-- present one (0004): no key signs for a credential that is committed after the key stopped. A new key changes no view
-- that anybody has; whoever meets a kid that it does not know reads again.
create trigger generation before update on mayfly.signing_keys
  for each row when (old.state is distinct from new.state) execute function mayfly.next_generation();

create function mayfly.audit_signing_key() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and old.state = new.state then return null; end if;
  insert into mayfly.audit_events (tenant_id, type, actor, subject_id, data, request_id)
  values (new.tenant_id, 'signing_key.' || new.state, mayfly.actor(), new.kid,
    jsonb_strip_nulls(jsonb_build_object('purpose', new.purpose, 'algorithm', new.algorithm,
      'from', case when tg_op = 'UPDATE' then old.state end, 'reason', new.reason,
      'published_until', case when new.state = 'retiring' then new.published_until end)),
    nullif(current_setting('mayfly.request', true), ''));
  return null;
end $$;
create trigger audit after insert or update on mayfly.signing_keys
  for each row execute function mayfly.audit_signing_key();

-- The keys that sign and verify, and the generation that they are of, in one snapshot. One row without a key when the
-- tenant has none.
create function mayfly.load_keys(p_tenant text)
  returns table (generation bigint, kid text, purpose text, state text, public_jwk jsonb, private_sealed bytea)
  language plpgsql volatile set search_path = mayfly, pg_temp as $$
begin
  perform set_config('mayfly.tenant', p_tenant, true);
  return query
  select g.generation, k.kid, k.purpose, k.state, k.public_jwk, k.private_sealed
    from generations g
    left join signing_keys k on k.tenant_id = p_tenant and k.state in ('active', 'retiring')
   where g.tenant_id = p_tenant;
end $$;

-- The key set of a tenant as it is now, for anybody. One row without a key when the tenant has none; no row, no tenant.
create function mayfly.published_keys(p_name text) returns table (tenant_id text, purpose text, state text, public_jwk jsonb)
  language sql stable security definer set search_path = mayfly, pg_temp
  begin atomic
    select t.id, k.purpose, k.state, k.public_jwk
      from mayfly.tenants t
      left join mayfly.signing_keys k on k.tenant_id = t.id and k.state in ('pending', 'active', 'retiring')
     where t.name = p_name order by k.created_at, k.kid;
  end;

-- Steps of rotation that are due, of every tenant.
create function mayfly.keys_due(p_rotate interval, p_ahead interval, p_publish interval)
  returns table (tenant_id text, purpose text, step text)
  language sql stable security definer set search_path = mayfly, pg_temp
  begin atomic
    select k.tenant_id, k.purpose, 'withdraw' from mayfly.signing_keys k
     where k.state = 'retiring' and k.published_until <= statement_timestamp()
     group by k.tenant_id, k.purpose
    union all
    select a.tenant_id, a.purpose, case when p.state is null then 'publish' else 'promote' end
      from mayfly.signing_keys a
      left join mayfly.signing_keys p on p.tenant_id = a.tenant_id and p.purpose = a.purpose and p.state = 'pending'
     where a.state = 'active'
       and case when p.state is null then a.activated_at <= statement_timestamp() - (p_rotate - p_ahead)
                else a.activated_at <= statement_timestamp() - p_rotate and p.created_at <= statement_timestamp() - p_publish end;
  end;

grant create on schema mayfly to mayfly_system;
alter function mayfly.published_keys(text) owner to mayfly_system;
alter function mayfly.keys_due(interval, interval, interval) owner to mayfly_system;
revoke create on schema mayfly from mayfly_system;
create policy looking on mayfly.signing_keys for select to mayfly_system using (true);
-- Not the private part.
grant select (tenant_id, kid, purpose, state, public_jwk, created_at, activated_at, published_until)
  on mayfly.signing_keys to mayfly_system;
