-- Deletes a project's pending jobs, and the blocked ones that wait for one of them: nothing may wait for what is gone. Jobs that run
-- or have run stay, with as many unmet dependencies less as they lose. Gives back how many jobs were deleted.
-- $1 ids of the jobs that graph/lock_queue.sql has locked
with recursive locked (id) as materialized (
    select unnest($1::bigint[])
), doomed (id) as (
    select jobs.id
    from jobs
    join locked on locked.id = jobs.id
    where jobs.status = 'PENDING'
    union
    select child.id
    from doomed
    join dependencies d on d.depends_on = doomed.id
    join jobs child on child.id = d.job_id
    join locked on locked.id = child.id
    where child.status = 'BLOCKED'
), lost as (
    select d.job_id, count(*)::integer as unmet
    from doomed
    join dependencies d on d.depends_on = doomed.id
    where d.job_id not in (select id from doomed)
    group by d.job_id
), freed as (
    update jobs child
    set unmet = child.unmet - lost.unmet,
        updated_at = greatest(clock_timestamp(), child.updated_at + interval '1 microsecond')
    from lost
    where child.id = lost.job_id
), own as (
    delete from dependencies
    where job_id in (select id from doomed)
), others as (
    delete from dependencies
    where depends_on in (select id from doomed) and job_id not in (select id from doomed)
), tried as (
    delete from attempts
    where job_id in (select id from doomed)
), deleted as (
    delete from jobs
    where id in (select id from doomed)
    returning 1
)
select count(*) as deleted
from deleted
