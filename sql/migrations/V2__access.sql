-- Who may come in: keys, and the users whose they are.
--
-- `grants` is {"all": role} or {"only": {project id: role, …}}; it is read and written as a whole, and a project that is deleted takes no grant with it
-- because ids are never used again. A key may do what both its own grants and its user's allow.

create table users (
    id         bigint generated always as identity primary key,
    name       text        not null constraint users_name_key unique,
    grants     jsonb       not null,
    active     boolean     not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- Keys are never deleted: one that was revoked stays known as such.
--
-- `version` rises with every change that a server must know of, also of the key's user. Whoever copies a key elsewhere copies its version, and
-- never writes over a newer one.
create table keys (
    id           text        primary key,
    name         text        not null,
    user_id      bigint      constraint keys_user_fkey references users,
    grants       jsonb       not null,
    hash         text        not null,
    rate_limit   integer     constraint keys_rate_limit_check check (rate_limit >= 0),
    version      bigint      not null default 1,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    successor    text        constraint keys_successor_fkey references keys,
    last_used_at timestamptz,
    created_at   timestamptz not null default now(),
    changed_at   timestamptz not null default clock_timestamp()
);

create index keys_user_idx on keys (user_id);
-- What was changed lately is copied to Redis again, in case that the first copy failed.
create index keys_changed_at_idx on keys (changed_at);
