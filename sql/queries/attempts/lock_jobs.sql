-- Locks attempts that may be reported of, and their jobs before them, until the transaction ends. What somebody else holds is passed over, and so is what is
-- over.
-- One array element an attempt: $1 job ids, $2 numbers
with wanted as materialized (
    select job_id, number
    from unnest($1::bigint[], $2::integer[]) as w (job_id, number)
)
select j.id as job_id, w.number
from wanted w
join jobs j on j.id = w.job_id
join attempts a on a.job_id = w.job_id and a.number = w.number
where j.attempt = w.number and j.status in ('QUEUED', 'RUNNING') and a.ended_at is null
order by j.id
for no key update of j, a skip locked
