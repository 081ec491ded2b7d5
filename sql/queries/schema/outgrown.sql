-- Have the tables that grow in moments become several times as large as they were when the planner last learnt of them? Not for who may not tell it.
with known as (
    select pg_relation_size(oid) / current_setting('block_size')::bigint as pages, relpages, relowner
    from pg_class
    where oid in ('jobs'::regclass, 'attempts'::regclass, 'dependencies'::regclass)
)
select coalesce(bool_or(pages >= 16 and pages > 4::bigint * relpages and pg_has_role(relowner, 'usage')), false) as outgrown
from known
