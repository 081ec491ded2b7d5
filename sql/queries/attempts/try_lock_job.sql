-- Locks the job of an attempt that may be reported of until the transaction ends, if nobody holds it, and tells whether they do. No row if the attempt is over.
-- $1 job id, $2 number
select locked.id is null as is_held
from jobs j
left join lateral (
    select held.id
    from jobs held
    where held.id = j.id and held.attempt = $2 and held.status in ('QUEUED', 'RUNNING')
    for no key update skip locked
) as locked on true
where j.id = $1 and j.attempt = $2 and j.status in ('QUEUED', 'RUNNING')
