-- Does a job depend on one that cannot complete as things are?
-- $1 job id
select exists (
    select
    from dependencies d
    join jobs parent on parent.id = d.depends_on
    where d.job_id = $1 and parent.status in ('FAILED', 'BLOCKED', 'CANCELLED')
) as dead
