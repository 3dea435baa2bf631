-- The database and the roles of Mayfly on a PostgreSQL (16 or later) that Mayfly does not run. Once, as an administrator
-- (a superuser, or the CREATEROLE and CREATEDB login that a managed service gives you), with psql:
--
--   psql "postgres://admin@db.internal/postgres" -v ON_ERROR_STOP=1 -f deploy/postgres.sql
--
-- It asks for two passwords. Then, with a direct connection and never through a transaction pooler:
--
--   DATABASE_OWNER_URL=postgres://mayfly_owner:…@db.internal/mayfly?sslmode=verify-full mayfly migrate
--
-- and give serve, api and worker DATABASE_URL=postgres://mayfly_app:…@db.internal/mayfly?sslmode=verify-full and MAYFLY_KEK.
-- What Mayfly's embedded PostgreSQL gets is the same: src/db/provision.ts, and a test that compares the two.

-- What the product may do. The migrations grant to it.
create role mayfly_runtime nologin;
-- Owns the functions that look across tenants, and nothing else. Not bound to one tenant, so nobody logs in as it.
create role mayfly_system nologin;
-- Runs the migrations and owns what they make. It creates no roles and sees no server files.
create role mayfly_owner login;
-- What the product logs in as: never the owner, whom row-level security binds less.
create role mayfly_app login;

grant mayfly_system to mayfly_owner;
grant mayfly_runtime to mayfly_app;

-- An administrator who is no superuser may only give a database to a role that it is a member of.
grant mayfly_owner to current_user;
create database mayfly owner mayfly_owner template template0 encoding 'UTF8' locale 'C';
revoke all on database mayfly from public;
grant connect on database mayfly to mayfly_app;
revoke mayfly_owner from current_user;

-- psql hashes them before they are sent, so they reach no log of the server.
\password mayfly_owner
\password mayfly_app
