-- From now on this connection waits no longer than that for a lock.
-- $1 how long, as PostgreSQL writes times
select set_config('lock_timeout', $1, false)
