-- Takes the attempts of all jobs of a project that is about to be deleted. Edges go by themselves.
-- $1 project id
delete from attempts
where job_id = any (array (select id from jobs where project_id = $1))
