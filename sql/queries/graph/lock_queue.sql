-- Locks what clearing a queue may delete, in the order of ids: a project's pending jobs, so that none is claimed any more, and the blocked ones below
-- them. Gives back their ids; what has been claimed or forced meanwhile is not among them.
-- $1 project id
with recursive queue (id) as (
    select id
    from jobs
    where project_id = $1 and status = 'PENDING'
    union
    select child.id
    from queue
    join dependencies d on d.depends_on = queue.id
    join jobs child on child.id = d.job_id
    where child.status = 'BLOCKED'
), locked as (
    select id
    from jobs
    where id in (select id from queue) and status in ('PENDING', 'BLOCKED')
    order by id
    for no key update
)
select coalesce(array_agg(id), '{}') as ids
from locked
