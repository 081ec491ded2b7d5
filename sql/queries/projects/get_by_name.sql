-- One project by its name.
-- $1 project name
select id, name, description, status, created_at, updated_at
from projects
where name = $1
