-- Takes a job that is about to be deleted out of the graph: its edges and attempts go, and what depended on it counts one unmet dependency less
-- (if it was one). Nothing may wait for it any more (graph/waiting_child.sql). Tells whose attempt it was that lived, if there was one.
-- $1 job id
with freed as (
    update jobs child
    set unmet = child.unmet - 1,
        updated_at = greatest(clock_timestamp(), child.updated_at + interval '1 microsecond')
    from dependencies d, jobs parent
    where d.depends_on = $1 and child.id = d.job_id and parent.id = $1 and parent.status <> 'COMPLETED'
), tried as (
    delete from attempts
    where job_id = $1
    returning client_id, ended_at
), cut as (
    delete from dependencies
    where job_id = $1 or depends_on = $1
)
select client_id
from tried
where ended_at is null and client_id is not null
