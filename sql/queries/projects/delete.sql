-- Deletes a project; its tasks, jobs and edges go with it by cascade.
-- $1 project id
delete from projects
where id = $1
