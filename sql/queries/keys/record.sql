-- What a server must know of a key to let it in: with its user, whose grants bound its own.
-- $1 ids
select k.id, k.name, k.hash, k.grants, k.rate_limit, k.version, k.expires_at, k.revoked_at is not null or u.active is false as dead,
       k.user_id, u.name as user_name, u.grants as user_grants
from keys k
left join users u on u.id = k.user_id
where k.id = any ($1)
