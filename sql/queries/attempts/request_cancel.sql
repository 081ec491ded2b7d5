-- Asks the client of an attempt to give it up. Only one that sends heartbeats can be told. (That it lives is asked
-- by its status: the index of what lives, which is all read to find a job, must not be thought of here.)
-- $1 job id, $2 number
update attempts
set cancel_requested = true
where job_id = $1 and number = $2 and status in ('CLAIMED', 'RUNNING') and lease_seconds is not null and client_id is not null
