-- Adds to the number of unmet dependencies of all jobs that depend on these, for each of them that they depend on. They are locked in the order of their
-- ids first, so that two parents of the same children can finish at the same time.
-- $1 job ids, $2 what to add: -1 when they completed, 1 when they are no longer completed
with children as materialized (
    select j.id
    from jobs j
    where j.id in (select d.job_id from dependencies d where d.depends_on = any ($1::bigint[]))
    order by j.id
    for no key update
), parents as materialized (
    select d.job_id, count(*)::integer as parents
    from dependencies d
    where d.depends_on = any ($1::bigint[])
    group by d.job_id
)
update jobs
set unmet = jobs.unmet + $2::integer * (select parents.parents from parents where parents.job_id = jobs.id),
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = any (array (select id from children))
