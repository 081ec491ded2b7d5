-- Adds jobs of one project that depend on nothing, and gives them back as they are then, with their places among those that came in. Their tasks are locked
-- first, as the foreign key does; where one is not there, or somebody is about to delete it, its jobs are passed over unless that is to be waited for.
-- $1 project id, then one array element a job: $2 names, $3 task ids, $4 parameters, $5 statuses, $6 priorities, $7 most attempts or null,
-- $8 backoff in seconds or null, $9 not before, or null, and $10 whether to wait
with task as materialized (
    select t.id
    from tasks t
    where t.id = any ($3::bigint[]) and t.project_id = $1
    order by t.id
    for key share skip locked
), incoming as materialized (
    select nextval(pg_get_serial_sequence('jobs', 'id')) as id, job.*
    from unnest($2::text[], $3::bigint[], $4::json[], $5::text[], $6::integer[], $7::integer[], $8::integer[], $9::timestamptz[])
         with ordinality as job (name, task_id, parameters, status, priority, max_attempts, backoff_seconds, not_before, position)
    where $10 or job.task_id in (select task.id from task)
    order by position
), added as (
    insert into jobs (id, project_id, task_id, name, parameters, status, priority, unmet, max_attempts, backoff_seconds, not_before, due)
    select id, $1, task_id, name, parameters, status, priority, 0, max_attempts, backoff_seconds, not_before,
           coalesce(not_before <= clock_timestamp(), true)
    from incoming
    order by position
    returning id, name, project_id, task_id, parameters, status, priority, attempt, max_attempts, backoff_seconds, not_before, created_at, updated_at
)
select incoming.position, added.id, added.name, added.project_id, added.task_id, added.parameters, added.status, added.priority, added.attempt,
       added.max_attempts, added.backoff_seconds, added.not_before, added.created_at, added.updated_at, '{}'::json as depends
from added
join incoming on incoming.id = added.id
