-- Lets everything wait again that was blocked by jobs which may complete after all, unless something else blocks it too: `reached` is these jobs and what
-- hangs below them, `held` what is still blocked in it, because a parent outside of it is dead or a parent in it is held. What the jobs themselves are is
-- set before; those that were set to BLOCKED wait again too, if nothing blocks them.
-- $1 job ids
with recursive reached (id) as (
    select unnest($1::bigint[])
    union
    select j.id
    from reached
    join dependencies d on d.depends_on = reached.id
    join jobs j on j.id = d.job_id
    where j.status = 'BLOCKED'
), held (id) as (
    select reached.id
    from reached
    join jobs own on own.id = reached.id and own.status = 'BLOCKED'
    join dependencies d on d.job_id = reached.id
    join jobs parent on parent.id = d.depends_on
    where parent.status in ('FAILED', 'BLOCKED', 'CANCELLED')
      and parent.id not in (select id from reached)
    union
    select reached.id
    from held
    join dependencies d on d.depends_on = held.id
    join reached on reached.id = d.job_id
)
update jobs
set status = 'PENDING',
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = any (array (select id from reached except select id from held)) and status = 'BLOCKED'
