-- Locks the job of an attempt that may be reported of, however long that takes, until the transaction ends. One whose attempt is over is not locked.
-- $1 job id, $2 number
select id
from jobs
where id = $1 and attempt = $2 and status in ('QUEUED', 'RUNNING')
for no key update
