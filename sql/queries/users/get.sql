-- A user.
-- $1 id
select id, name, grants, active, created_at, updated_at from users where id = $1
