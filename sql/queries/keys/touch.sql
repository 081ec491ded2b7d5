-- Notes when keys were last used; not more often than once a minute for each.
-- $1 ids, $2 for each, how many seconds ago
update keys k
set last_used_at = used.at
from (select id, clock_timestamp() - make_interval(secs => ago) as at from unnest($1::text[], $2::double precision[]) as given (id, ago)) as used
where k.id = used.id and (k.last_used_at is null or k.last_used_at < used.at - interval '1 minute')
