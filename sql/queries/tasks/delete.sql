-- Deletes a task; its jobs go with it by cascade. Their edges must be gone already (graph/detach_task.sql).
-- $1 task id
delete from tasks
where id = $1
