-- Gives a key a successor and lets it end after a while, or earlier if it would have.
-- $1 id, $2 the successor's id, $3 seconds that it still has
update keys
set successor = $2, version = version + 1, changed_at = clock_timestamp(),
    expires_at = least(expires_at, clock_timestamp() + make_interval(secs => $3))
where id = $1
