-- A page of a task's jobs by id, and how many there are in all. Always at least one row: with an empty page its id is null.
-- $1 status or null for any, $2 only ids above this, $3 skip, $4 limit, $5 task id, $6 project id or null for any, $7 only these projects' or null for all
select (select count(*) from jobs j where j.task_id = $5 and ($6::bigint is null or j.project_id = $6) and ($7::bigint[] is null or j.project_id = any ($7)) and ($1::text is null or j.status = $1)) as total,
       page.id, page.name, page.project_id, page.task_id, page.parameters, page.status, page.priority,
       page.attempt, page.max_attempts, page.backoff_seconds, page.not_before, page.created_at, page.updated_at,
       coalesce((
           select json_object_agg(parent.id, parent.name order by parent.id)
           from dependencies d
           join jobs parent on parent.id = d.depends_on
           where d.job_id = page.id
       ), '{}') as depends
from (select) as always
left join (
    select j.id, j.name, j.project_id, j.task_id, j.parameters, j.status, j.priority,
           j.attempt, j.max_attempts, j.backoff_seconds, j.not_before, j.created_at, j.updated_at
    from jobs j
    where j.task_id = $5 and ($6::bigint is null or j.project_id = $6) and ($7::bigint[] is null or j.project_id = any ($7)) and ($1::text is null or j.status = $1) and j.id > $2
    order by j.id
    offset $3 limit $4
) as page on true
order by page.id
