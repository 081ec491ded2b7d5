-- A user by name.
-- $1 name
select id, name, grants, active, created_at, updated_at from users where name = $1
