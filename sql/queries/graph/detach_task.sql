-- Takes all jobs of a task that is about to be deleted out of the graph, as graph/detach_job.sql does for one. Tells whose attempts
-- lived, each once.
-- $1 task id
with doomed as materialized (
    select id, status
    from jobs
    where task_id = $1
), lost as (
    select d.job_id, count(*)::integer as unmet
    from doomed
    join dependencies d on d.depends_on = doomed.id
    where doomed.status <> 'COMPLETED'
    group by d.job_id
), freed as (
    update jobs child
    set unmet = child.unmet - lost.unmet,
        updated_at = greatest(clock_timestamp(), child.updated_at + interval '1 microsecond')
    from lost
    where child.id = lost.job_id and child.task_id <> $1
), own as (
    delete from dependencies
    where job_id in (select id from doomed)
), cut as (
    delete from dependencies
    where depends_on in (select id from doomed)
), tried as (
    delete from attempts
    where job_id in (select id from doomed)
    returning client_id, ended_at
)
select distinct client_id
from tried
where ended_at is null and client_id is not null
