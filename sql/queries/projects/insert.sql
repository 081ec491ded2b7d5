-- Creates a project.
-- $1 name, $2 description, $3 status
insert into projects (name, description, status)
values ($1, $2, $3)
returning id, name, description, status, created_at, updated_at
