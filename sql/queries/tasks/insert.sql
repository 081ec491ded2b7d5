-- Creates a task.
-- $1 project id, $2 name, $3 command template or null, $4 required cpu, $5 required accelerators
insert into tasks (project_id, name, command_template, required_cpu, required_accelerators)
values ($1, $2, $3, $4, $5)
returning id, name, project_id, command_template, required_cpu, required_accelerators, created_at, updated_at
