-- Deletes finished jobs of a project with their attempts and edges, if nothing could still need them: of one that completed, that all which depended on it
-- is finished too; of any other, that nothing depended on it. The project's graph is locked.
-- $1 project id, $2 job ids, $3 age in seconds
with doomed as materialized (
    select j.id
    from jobs j
    where j.id = any ($2::bigint[]) and j.project_id = $1 and j.updated_at < now() - make_interval(secs => $3)
      and j.status in ('COMPLETED', 'FAILED', 'CANCELLED')
      and not exists (
          select
          from dependencies d
          join jobs child on child.id = d.job_id
          where d.depends_on = j.id
            and (j.status <> 'COMPLETED' or child.status not in ('COMPLETED', 'FAILED', 'CANCELLED'))
      )
    order by j.id
    for no key update
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
