-- Adds jobs of one project that depend on nothing, and gives them back as they are then, in the order they came in.
-- $1 project id, then one array element a job: $2 names, $3 task ids, $4 parameters, $5 statuses, $6 priorities, $7 most attempts or null,
-- $8 backoff in seconds or null, $9 not before, or null
with added as (
    insert into jobs (project_id, task_id, name, parameters, status, priority, unmet, max_attempts, backoff_seconds, not_before, due)
    select $1, task_id, name, parameters, status, priority, 0, max_attempts, backoff_seconds, not_before,
           coalesce(not_before <= clock_timestamp(), true)
    from unnest($2::text[], $3::bigint[], $4::json[], $5::text[], $6::integer[], $7::integer[], $8::integer[], $9::timestamptz[])
         with ordinality as job (name, task_id, parameters, status, priority, max_attempts, backoff_seconds, not_before, position)
    order by position
    returning id, name, project_id, task_id, parameters, status, priority, attempt, max_attempts, backoff_seconds, not_before, created_at, updated_at
)
select id, name, project_id, task_id, parameters, status, priority, attempt, max_attempts, backoff_seconds, not_before, created_at, updated_at,
       '{}'::json as depends
from added
order by id
