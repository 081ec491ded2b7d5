-- Replaces a project's name, description and status.
-- $1 project id, $2 name, $3 description, $4 status
update projects
set name = $2, description = $3, status = $4,
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = $1
returning id, name, description, status, created_at, updated_at
