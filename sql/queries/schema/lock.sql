-- Waits until no other process migrates this database. Held until the connection closes.
-- $1 lock number
select pg_advisory_lock($1)
