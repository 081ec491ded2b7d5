-- All attempts of the client that live and have a lease have at least the `sequence` of `live_from`. It is raised now and then, at `live_from_at` for the last
-- time (claims/held.sql).
alter table clients
    add column live_from    bigint      not null default 0,
    add column live_from_at timestamptz not null default now();
