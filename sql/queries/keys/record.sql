-- What a server must know of a key to let it in: with its user, whose grants bound its own. Whether it has expired, and in how many ms it will, is told by this
-- clock, since other clocks may be behind.
-- $1 ids
select k.id, k.name, k.hash, k.grants, k.rate_limit, k.version, k.expires_at,
       k.revoked_at is not null or u.active is false or coalesce(k.expires_at <= now.at, false) as dead,
       ceil(extract(epoch from k.expires_at - now.at) * 1000)::bigint as left_ms,
       k.user_id, u.name as user_name, u.grants as user_grants
from (select clock_timestamp() as at) as now
join keys k on k.id = any ($1)
left join users u on u.id = k.user_id
