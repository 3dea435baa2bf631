-- Who and what there is: owners, teams, agents, trust, resources, relationships, purposes, targets, policies, keys.

create table mayfly.teams (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^tea_[0-9a-f]{32}$'),
  name text not null,
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, name)
);

-- subject: the principal that this human logs in as (trust source id, '|', sub). It keeps owners from approving their own.
create table mayfly.owners (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^own_[0-9a-f]{32}$'),
  kind text not null check (kind in ('human', 'team')),
  name text not null,
  email text,
  subject text,
  team_id text collate "C",
  status text not null default 'active' check (status in ('active', 'departed')),
  departed_at timestamptz,
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, name),
  foreign key (tenant_id, team_id) references mayfly.teams (tenant_id, id),
  check ((kind = 'team') = (team_id is not null))
);

create table mayfly.agents (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^agt_[0-9a-f]{32}$'),
  kind text not null check (kind in ('agent', 'model', 'connector', 'service_account', 'secret_issuer')),
  name text not null,
  description text not null default '',
  owner_id text collate "C" not null,
  environment text not null check (environment in ('production', 'staging', 'development')),
  state text not null default 'proposed' check (state in ('proposed', 'active', 'suspended', 'quarantined', 'retired')),
  bearer_ttl_seconds int check (bearer_ttl_seconds between 1 and 3600),
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, name),
  foreign key (tenant_id, owner_id) references mayfly.owners (tenant_id, id)
);
create index agents_owner on mayfly.agents (tenant_id, owner_id);

create table mayfly.trust_sources (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^trs_[0-9a-f]{32}$'),
  name text not null,
  kind text not null check (kind in ('oidc', 'jwks_uri', 'key_set', 'spiffe', 'x509_ca', 'self_signed')),
  issuer text not null,
  settings jsonb not null,
  state text not null default 'active' check (state in ('active', 'disabled')),
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, name),
  unique (tenant_id, issuer)
);

-- The newest sequence of a SPIFFE trust source's bundle that any process has read, so that one that has just started does not
-- take an older bundle. It counts for the version of the source that it was read for.
create table mayfly.bundle_sequences (
  tenant_id text collate "C" not null,
  trust_source_id text collate "C" not null,
  source_version int not null,
  sequence bigint not null check (sequence >= 0),
  primary key (tenant_id, trust_source_id),
  foreign key (tenant_id, trust_source_id) references mayfly.trust_sources (tenant_id, id) on delete cascade
);

-- The anchor is the one claim that the identity is found by; conditions are the rest. Empty conditions are fine only
-- because the anchor is one already.
create table mayfly.identities (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^idn_[0-9a-f]{32}$'),
  trust_source_id text collate "C" not null,
  agent_id text collate "C" not null,
  anchor_claim text not null,
  anchor_value text not null,
  conditions jsonb not null default '[]',
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, trust_source_id) references mayfly.trust_sources (tenant_id, id),
  foreign key (tenant_id, agent_id) references mayfly.agents (tenant_id, id),
  unique (tenant_id, trust_source_id, anchor_claim, anchor_value, conditions)
);

create table mayfly.resources (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^res_[0-9a-f]{32}$'),
  name text not null,
  kind text not null check (kind in ('dataset', 'api', 'tool', 'system')),
  description text not null default '',
  owner_id text collate "C" not null,
  classification text not null check (classification in ('public', 'internal', 'confidential', 'restricted')),
  environment text not null check (environment in ('production', 'staging', 'development')),
  risk text not null check (risk in ('low', 'medium', 'high')),
  groups text[] not null default '{}',
  operations jsonb not null,
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, name),
  foreign key (tenant_id, owner_id) references mayfly.owners (tenant_id, id)
);

create table mayfly.relationships (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^rel_[0-9a-f]{32}$'),
  subject text collate "C" not null,
  relation text not null,
  object text collate "C" not null,
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, subject, relation, object)
);
create index relationships_object on mayfly.relationships (tenant_id, object, relation);

create table mayfly.purposes (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^pur_[0-9a-f]{32}$'),
  agent_id text collate "C" not null,
  name text not null,
  description text not null,
  actions text[] not null check (cardinality(actions) > 0),
  resource_ids text[] not null check (cardinality(resource_ids) > 0),
  data_classes text[] not null check (cardinality(data_classes) > 0),
  environments text[] not null check (cardinality(environments) > 0),
  max_ttl_seconds int not null check (max_ttl_seconds > 0),
  state text not null default 'proposed' check (state in ('proposed', 'approved', 'retired')),
  reviewer_id text collate "C" not null,
  review_by timestamptz not null,
  expires_at timestamptz not null,
  proposed_by text not null,
  approved_by text,
  approved_at timestamptz,
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, agent_id, name),
  foreign key (tenant_id, agent_id) references mayfly.agents (tenant_id, id),
  foreign key (tenant_id, reviewer_id) references mayfly.owners (tenant_id, id),
  -- No self-approval, whatever the code above thinks.
  check (state <> 'approved' or (approved_by is not null and approved_at is not null and approved_by <> proposed_by)),
  check (isfinite(review_by) and isfinite(expires_at))
);

-- config_sealed holds the whole configuration, secrets included, sealed with the key encryption key.
create table mayfly.targets (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^tgt_[0-9a-f]{32}$'),
  name text not null,
  issuer text not null,
  owner_id text collate "C" not null,
  config jsonb not null,
  config_sealed bytea not null,
  max_ttl_seconds int not null check (max_ttl_seconds > 0),
  stuck_limit int not null default 5 check (stuck_limit > 0),
  state text not null default 'active' check (state in ('active', 'suspended', 'quarantined', 'retired')),
  canary jsonb not null,
  -- When the last canary began, and its downstream name: while it lives it is nobody's orphan.
  canary_at timestamptz,
  canary_name text,
  reconciled_at timestamptz,
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, name),
  foreign key (tenant_id, owner_id) references mayfly.owners (tenant_id, id)
);
create index targets_owner on mayfly.targets (tenant_id, owner_id);
create index targets_audience on mayfly.targets (tenant_id, (config ->> 'audience')) where issuer = 'jwt';

-- Which resources a target reaches, and what each action class means there for its issuer.
create table mayfly.target_resources (
  tenant_id text collate "C" not null,
  target_id text collate "C" not null,
  resource_id text collate "C" not null,
  access jsonb not null,
  primary key (tenant_id, target_id, resource_id),
  foreign key (tenant_id, target_id) references mayfly.targets (tenant_id, id) on delete cascade,
  foreign key (tenant_id, resource_id) references mayfly.resources (tenant_id, id)
);

create table mayfly.policy_sets (
  tenant_id text collate "C" not null references mayfly.tenants,
  id text collate "C" not null check (id ~ '^pol_[0-9a-f]{32}$'),
  policy_version int not null,
  text text not null,
  text_hash text not null,
  note text not null default '',
  active boolean not null,
  published_by text not null,
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, policy_version)
);
create unique index policy_sets_active on mayfly.policy_sets (tenant_id) where active;

-- One key, one algorithm, one purpose. created_at is when it was published. The private part is there only while the key may
-- sign or is about to; published_until is the last exp that it may have signed, and more. 0006 says how a key lives.
create table mayfly.signing_keys (
  tenant_id text collate "C" not null references mayfly.tenants,
  kid text collate "C" not null check (kid ~ '^[A-Za-z0-9_-]{43}$'),
  purpose text not null check (purpose in ('access_token', 'admin_token', 'introspection', 'status_list')),
  algorithm text not null check (algorithm in ('ES256')),
  public_jwk jsonb not null,
  private_sealed bytea,
  state text not null check (state in ('pending', 'active', 'retiring', 'gone', 'compromised')),
  activated_at timestamptz,
  retired_at timestamptz,
  published_until timestamptz check (isfinite(published_until)),
  ended_at timestamptz,
  reason text,
  version int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, kid),
  check (public_jwk ->> 'kid' = kid and public_jwk ->> 'alg' = algorithm
    and not public_jwk ?| array['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k']),
  check ((state in ('pending', 'active')) = (private_sealed is not null)),
  check (state <> 'active' or activated_at is not null),
  check (state <> 'retiring' or (retired_at is not null and published_until is not null)),
  check ((state in ('gone', 'compromised')) = (ended_at is not null)),
  check ((state = 'compromised') = (reason is not null))
);
create unique index signing_keys_active on mayfly.signing_keys (tenant_id, purpose) where state = 'active';
create unique index signing_keys_pending on mayfly.signing_keys (tenant_id, purpose) where state = 'pending';
create index signing_keys_published on mayfly.signing_keys (tenant_id) where state in ('pending', 'active', 'retiring');

-- One row per token that may be presented once only, kept until it would be refused as expired.
-- What may be shown once and has been: tokens by their trust source, DPoP proofs under 'dpop'.
create table mayfly.seen_tokens (
  tenant_id text collate "C" not null,
  trust_source_id text collate "C" not null,
  jti_hash bytea not null,
  expires_at timestamptz not null,
  primary key (tenant_id, trust_source_id, jti_hash)
);
create index seen_tokens_expiry on mayfly.seen_tokens (expires_at);

create table mayfly.idempotency_keys (
  tenant_id text collate "C" not null,
  subject text not null,
  route text not null,
  key text not null,
  fingerprint text not null,
  state text not null check (state in ('running', 'done')),
  status int,
  reply jsonb,
  credential_id text collate "C",
  locked_until timestamptz,
  created_at timestamptz not null default now(),
  primary key (tenant_id, subject, route, key)
);
create index idempotency_keys_age on mayfly.idempotency_keys (created_at);

do $$
declare
  t record;
begin
  for t in select * from (values
    ('teams', 'team', '{}'), ('owners', 'owner', '{}'), ('agents', 'agent', '{}'),
    ('trust_sources', 'trust_source', '{}'), ('identities', 'identity', '{}'), ('resources', 'resource', '{}'),
    ('relationships', 'relationship', '{}'), ('purposes', 'purpose', '{}'),
    ('targets', 'target', '{config_sealed,reconciled_at}'), ('policy_sets', 'policy_set', '{}'),
    ('signing_keys', null, null), ('target_resources', 'target_resource', '{}'),
    ('seen_tokens', null, null), ('idempotency_keys', null, null), ('bundle_sequences', null, null)) as x (tab, word, hidden)
  loop
    execute format('alter table mayfly.%I enable row level security, force row level security', t.tab);
    execute format('create policy tenant on mayfly.%I to mayfly_runtime using (tenant_id = mayfly.tenant())', t.tab);
    execute format('grant select, insert, update, delete on mayfly.%I to mayfly_runtime', t.tab);
    if t.word is not null then
      execute format('create trigger audit after insert or update or delete on mayfly.%I for each row execute function mayfly.audit_change(%L, %L)',
        t.tab, t.word, t.hidden);
    end if;
  end loop;
end $$;

-- A number that changes with every change of the registry that a decision could notice. What was read under one
-- generation is what is stored as long as the generation is the same, so a process may keep it, and a mint may commit on it
-- (0004). The gate orders the two: a change takes it alone, a mint shares it, and a queue of mints cannot starve a change,
-- as it could with row locks: who waits for the gate is not overtaken.
create table mayfly.generations (
  tenant_id text collate "C" primary key references mayfly.tenants,
  generation bigint not null default 1
);

create function mayfly.gate(p_tenant text) returns bigint language sql immutable parallel safe
  return hashtextextended(p_tenant, 7305794);

-- By row, so that it holds for whoever changes a row, with whatever tenant set. Once per transaction is enough.
create function mayfly.next_generation() returns trigger language plpgsql as $$
declare
  row_ jsonb := to_jsonb(case when tg_op = 'DELETE' then old else new end);
  tenant text := coalesce(row_ ->> 'tenant_id', row_ ->> 'id');
begin
  perform pg_advisory_xact_lock(mayfly.gate(tenant));
  update mayfly.generations g set generation = g.generation + 1
   where g.tenant_id = tenant and g.xmin <> pg_current_xact_id()::xid;
  return case when tg_op = 'DELETE' then old else new end;
end $$;

create function mayfly.first_generation() returns trigger language plpgsql as $$
begin
  insert into mayfly.generations (tenant_id) values (new.id);
  return null;
end $$;

insert into mayfly.generations (tenant_id) values
  ('ten_00000000000070008000000000000000'), ('ten_00000000000070008000000000000001');

do $$
declare
  t record;
begin
  for t in select * from (values
    -- What is new in these changes no facts that were read before; what is new in the others does.
    ('owners', 'update or delete'), ('agents', 'update or delete'), ('trust_sources', 'update or delete'),
    ('resources', 'update or delete'), ('purposes', 'update or delete'),
    -- Not for what the reconciler notes.
    ('targets', 'update of name, issuer, owner_id, config, config_sealed, max_ttl_seconds, state, version or delete'),
    ('target_resources', 'insert or update or delete'), ('identities', 'insert or update or delete'),
    ('relationships', 'insert or update or delete'), ('policy_sets', 'insert or update or delete'),
    ('tenants', 'update of state')) as x (tab, changes)
  loop
    execute format('create trigger generation before %s on mayfly.%I for each row execute function mayfly.next_generation()',
      t.changes, t.tab);
  end loop;
  create trigger first_generation after insert on mayfly.tenants for each row execute function mayfly.first_generation();
end $$;

alter table mayfly.generations enable row level security, force row level security;
create policy tenant on mayfly.generations to mayfly_runtime using (tenant_id = mayfly.tenant())
  with check (tenant_id = mayfly.tenant() or mayfly.tenant() = 'ten_00000000000070008000000000000000');
grant select, insert, update on mayfly.generations to mayfly_runtime;
