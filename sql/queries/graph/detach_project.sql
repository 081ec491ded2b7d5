-- Takes the attempts of all jobs of a project that is about to be deleted, and tells whose lived, each once. Edges go by themselves.
-- $1 project id
with tried as (
    delete from attempts
    where job_id = any (array (select id from jobs where project_id = $1))
    returning client_id, ended_at
)
select distinct client_id
from tried
where ended_at is null and client_id is not null
