-- A page of a job's attempts by number, and how many there are in all. Always at least one row: with an empty page its number is null.
-- $1 job id, $2 only numbers above this, $3 skip, $4 limit
select (select count(*) from attempts a where a.job_id = $1) as total,
       page.job_id, page.number, page.client_id, page.status, page.cpu, page.accelerators, page.claimed_at, page.started_at, page.ended_at,
       page.lease_seconds, page.lease_expires_at, page.cancel_requested, page.progress, page.message, page.result, page.error,
       page.exit_code, page.reason, page.log_tail, page.job_status, page.reported
from (select) as always
left join (
    select job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
       cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
    from attempts
    where job_id = $1 and number > $2
    order by number
    offset $3 limit $4
) as page on true
order by page.number
