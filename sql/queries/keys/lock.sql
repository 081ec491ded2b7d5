-- A key that can still be used, locked to be replaced; no row if there is none.
-- $1 id
select name, user_id, grants, rate_limit, expires_at
from keys
where id = $1 and revoked_at is null and successor is null and (expires_at is null or expires_at > clock_timestamp())
for update
