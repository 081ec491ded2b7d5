-- Makes few rows of many counts, where there are many, or where they come to nothing, as those of a project that was deleted. What somebody else is about to compact is passed over.
-- $1 from how many rows of a project's status on, $2 how many rows at most
with many as materialized (
    select project_id, status
    from job_counts
    group by project_id, status
    having count(*) >= $1 or sum(jobs) = 0
), taken as (
    delete from job_counts
    where ctid = any (array (
        select c.ctid
        from job_counts c
        join many on many.project_id = c.project_id and many.status = c.status
        limit $2
        for update of c skip locked
    ))
    returning project_id, status, jobs
), summed as (
    insert into job_counts (project_id, status, jobs)
    select project_id, status, sum(jobs)
    from taken
    group by project_id, status
    having sum(jobs) <> 0
)
select count(*) as taken
from taken
