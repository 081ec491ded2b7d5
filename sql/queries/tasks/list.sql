-- A page of a project's tasks by id, and how many it has in all. Always at least one row: with an empty page its id is null.
-- $1 project id, $2 only ids above this, $3 skip, $4 limit
select (select count(*) from tasks where project_id = $1) as total,
       page.id, page.name, page.project_id, page.command_template, page.required_cpu, page.required_accelerators,
       page.max_attempts, page.backoff_seconds, page.created_at, page.updated_at
from (select) as always
left join (
    select id, name, project_id, command_template, required_cpu, required_accelerators, max_attempts, backoff_seconds, created_at, updated_at
    from tasks
    where project_id = $1 and id > $2
    order by id
    offset $3 limit $4
) as page on true
order by page.id
