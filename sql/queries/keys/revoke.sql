-- Ends a key for good. One that was revoked stays as it was.
-- $1 id
update keys
set revoked_at = coalesce(revoked_at, clock_timestamp()), version = version + 1, changed_at = clock_timestamp()
where id = $1
