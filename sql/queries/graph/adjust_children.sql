-- Adds to the number of unmet dependencies of all jobs that depend on this one. They are locked in the order of their ids first,
-- so that two parents of the same children can finish together.
-- $1 job id, $2 what to add: -1 when it completed, 1 when it is no longer completed
with children as materialized (
    select j.id
    from jobs j
    where j.id in (select d.job_id from dependencies d where d.depends_on = $1)
    order by j.id
    for no key update
)
update jobs
set unmet = unmet + $2::integer,
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = any (array (select id from children))
