-- Marks clients as gone that were not heard of for a while.
-- $1 seconds
update clients
set is_active = false
where is_active and last_heartbeat < clock_timestamp() - make_interval(secs => $1)
