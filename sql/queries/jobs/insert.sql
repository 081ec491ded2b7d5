-- Adds jobs of one project and gives back their ids, in the order they came in.
-- $1 project id, then one array element a job: $2 names, $3 task ids, $4 parameters, $5 statuses, $6 priorities, $7 numbers of unmet dependencies,
-- $8 most attempts or null, $9 backoff in seconds or null, $10 not before, or null
with incoming as materialized (
    select nextval(pg_get_serial_sequence('jobs', 'id')) as id, job.*
    from unnest($2::text[], $3::bigint[], $4::json[], $5::text[], $6::integer[], $7::integer[], $8::integer[], $9::integer[], $10::timestamptz[])
         with ordinality as job (name, task_id, parameters, status, priority, unmet, max_attempts, backoff_seconds, not_before, position)
    order by position
), added as (
    insert into jobs (id, project_id, task_id, name, parameters, status, priority, unmet, max_attempts, backoff_seconds, not_before, due)
    select id, $1, task_id, name, parameters, status, priority, unmet, max_attempts, backoff_seconds, not_before,
           coalesce(not_before <= clock_timestamp(), true)
    from incoming
    order by position
)
select coalesce(array_agg(id order by position), '{}') as ids
from incoming
