-- Adds edges, one array element each.
-- $1 project id, $2 waiting job ids, $3 ids of the jobs they depend on
insert into dependencies (project_id, job_id, depends_on)
select $1, edge.job_id, edge.depends_on
from unnest($2::bigint[], $3::bigint[]) as edge (job_id, depends_on)
