-- Claims jobs for clients: those that are still ready, still need what they did, and that nobody else is taking. What `ready` stands for is asked of its
-- columns: the index of ready jobs, which is all read to find an id, must not be thought of here.
-- One array element a job: $1 job ids, $2 client ids, $3 lease in seconds, $4 cpu and $5 accelerators that it is known to need
with wanted as materialized (
    select job_id, client_id, lease_seconds, cpu, accelerators
    from unnest($1::bigint[], $2::text[], $3::integer[], $4::integer[], $5::integer[]) as w (job_id, client_id, lease_seconds, cpu, accelerators)
), locked as materialized (
    select j.id, w.client_id, w.lease_seconds, w.cpu, w.accelerators
    from wanted w
    join jobs j on j.id = w.job_id
    join tasks t on t.id = j.task_id
    where j.status = 'PENDING' and j.unmet = 0 and j.due and t.required_cpu = w.cpu and t.required_accelerators = w.accelerators
    order by j.id
    for no key update of j skip locked
), claimed as (
    update jobs
    set status = 'QUEUED', attempt = attempt + 1,
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    where id = any (array (select id from locked))
    returning id, name, project_id, task_id, parameters, status, priority, attempt, max_attempts, backoff_seconds, not_before, created_at,
              updated_at
), begun as (
    insert into attempts (job_id, number, client_id, status, cpu, accelerators, lease_seconds, lease_expires_at)
    select claimed.id, claimed.attempt, locked.client_id, 'CLAIMED', locked.cpu, locked.accelerators, locked.lease_seconds,
           clock_timestamp() + make_interval(secs => locked.lease_seconds)
    from claimed
    join locked on locked.id = claimed.id
    returning job_id, cpu, accelerators, lease_expires_at
)
select claimed.id, claimed.name, claimed.project_id, claimed.task_id, task.name as task_name, task.command_template, claimed.parameters,
       claimed.status, claimed.priority, claimed.attempt, claimed.max_attempts, claimed.backoff_seconds, claimed.not_before,
       claimed.created_at, claimed.updated_at, begun.cpu, begun.accelerators, begun.lease_expires_at,
       coalesce((
           select json_object_agg(parent.id, parent.name order by parent.id)
           from dependencies d
           join jobs parent on parent.id = d.depends_on
           where d.job_id = claimed.id
       ), '{}') as depends
from claimed
join begun on begun.job_id = claimed.id
join tasks task on task.id = claimed.task_id
