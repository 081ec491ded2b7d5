-- Blocks everything that waits for a job which cannot complete any more, directly or through others.
-- $1 job id
with recursive doomed (id) as (
    select j.id
    from dependencies d
    join jobs j on j.id = d.job_id
    where d.depends_on = $1 and j.status = 'PENDING'
    union
    select j.id
    from doomed
    join dependencies d on d.depends_on = doomed.id
    join jobs j on j.id = d.job_id
    where j.status = 'PENDING'
)
update jobs
set status = 'BLOCKED',
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = any (array (select id from doomed)) and status = 'PENDING'
