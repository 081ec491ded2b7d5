-- The ids of the keys that were changed lately.
-- $1 in the last so many seconds
select id from keys where changed_at > clock_timestamp() - make_interval(secs => $1) order by changed_at
