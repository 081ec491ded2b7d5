-- Notes that a client is alive.
-- $1 client id
update clients
set last_heartbeat = clock_timestamp(), is_active = true
where id = $1
