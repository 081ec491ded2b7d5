-- A key, without its hash.
-- $1 id
select k.id, k.name, k.user_id, u.name as user_name, k.grants, k.rate_limit, k.expires_at, k.revoked_at, k.successor, k.last_used_at, k.created_at
from keys k
left join users u on u.id = k.user_id
where k.id = $1
