-- Adds a key.
-- $1 id, $2 name, $3 user id or null, $4 grants, $5 hash, $6 its own limit or null, $7 when it expires or null
insert into keys (id, name, user_id, grants, hash, rate_limit, expires_at)
values ($1, $2, $3, $4, $5, $6, $7)
