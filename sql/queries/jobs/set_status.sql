-- Sets a job's status and nothing else.
-- $1 job id, $2 status
update jobs
set status = $2, updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = $1
