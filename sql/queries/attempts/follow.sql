-- Lets a job's current attempt follow what the job was set to, and tells whose it was, if it ended. Of a job that was tried very often, the oldest attempts are
-- forgotten.
-- $1 job id, $2 number, $3 the job's status, $4 how many attempts are kept
with forgotten as (
    delete from attempts
    where job_id = $1 and number <= $2 - $4::integer
)
update attempts
set status = case $3
        when 'QUEUED' then 'CLAIMED'
        when 'RUNNING' then 'RUNNING'
        when 'COMPLETED' then 'COMPLETED'
        when 'FAILED' then 'FAILED'
        when 'CANCELLED' then 'CANCELLED'
        else 'RELEASED'
    end,
    started_at = case when $3 = 'RUNNING' then coalesce(started_at, clock_timestamp()) else started_at end,
    ended_at = case when $3 not in ('QUEUED', 'RUNNING') then clock_timestamp() end,
    job_status = case when $3 not in ('QUEUED', 'RUNNING') then $3 end
where job_id = $1 and number = $2 and ended_at is null
returning case when ended_at is not null then client_id end as client_id
