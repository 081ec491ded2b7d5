-- Adds a user.
-- $1 name, $2 grants
insert into users (name, grants) values ($1, $2) returning id, name, grants, active, created_at, updated_at
