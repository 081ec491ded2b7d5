-- Creates a task.
-- $1 project id, $2 name, $3 command template or null, $4 required cpu, $5 required accelerators, $6 most attempts or null, $7 backoff in seconds or null
insert into tasks (project_id, name, command_template, required_cpu, required_accelerators, max_attempts, backoff_seconds)
values ($1, $2, $3, $4, $5, $6, $7)
returning id, name, project_id, command_template, required_cpu, required_accelerators, max_attempts, backoff_seconds, created_at, updated_at
