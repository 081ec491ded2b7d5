-- Counts anew how many of a job's parents are not completed.
-- $1 job id
update jobs
set unmet = (
        select count(*)
        from dependencies d
        join jobs parent on parent.id = d.depends_on
        where d.job_id = $1 and parent.status <> 'COMPLETED'
    ),
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = $1
returning unmet
