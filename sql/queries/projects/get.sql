-- One project by its id.
-- $1 project id
select id, name, description, status, created_at, updated_at
from projects
where id = $1
