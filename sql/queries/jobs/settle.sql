-- Sets what becomes of a job whose row is locked.
-- $1 job id, $2 status, $3 failed attempts, $4 in how many seconds it is due, or null to leave that as it is
update jobs
set status = $2, failed_attempts = $3,
    not_before = case when $4::double precision > 0 then clock_timestamp() + make_interval(secs => $4) else not_before end,
    due = case when $4 is null then due else $4 <= 0 end,
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = $1
