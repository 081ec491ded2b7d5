-- The ids of the keys that are good, the newest first.
-- $1 at most so many
select id from keys where revoked_at is null and (expires_at is null or expires_at > clock_timestamp()) order by id desc limit $1
