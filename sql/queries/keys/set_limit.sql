-- Gives a key a limit of its own, or takes it away.
-- $1 id, $2 requests a window, 0 for no limit, null for the usual one
update keys set rate_limit = $2, version = version + 1, changed_at = clock_timestamp() where id = $1
