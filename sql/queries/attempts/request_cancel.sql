-- Asks the client of an attempt to give it up. Only one that sends heartbeats can be told.
-- $1 job id, $2 number
update attempts
set cancel_requested = true
where job_id = $1 and number = $2 and ended_at is null and lease_seconds is not null and client_id is not null
