-- Adds a job that depends on nothing, and gives it back as it is then.
-- $1 project id, $2 name, $3 task id, $4 parameters, $5 status, $6 priority, $7 most attempts or null, $8 backoff in seconds or null,
-- $9 not before, or null
insert into jobs (project_id, name, task_id, parameters, status, priority, unmet, max_attempts, backoff_seconds, not_before, due)
values ($1, $2, $3, $4, $5, $6, 0, $7, $8, $9, coalesce($9 <= clock_timestamp(), true))
returning id, name, project_id, task_id, parameters, status, priority, attempt, max_attempts, backoff_seconds, not_before, created_at, updated_at,
          '{}'::json as depends
