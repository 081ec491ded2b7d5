-- Locks jobs of a project that stopped, in the order of their ids, and makes them wait again with all of their attempts. BLOCKED is right for the moment:
-- graph/unblock.sql tells, in the same transaction, which of them can run.
-- $1 project id, $2 status, $3 task id or null for any
with stopped as materialized (
    select id
    from jobs
    where project_id = $1 and halted and status = $2 and ($3::bigint is null or task_id = $3)
    order by id
    for no key update
), waiting as (
    update jobs
    set status = 'BLOCKED', failed_attempts = 0, due = true,
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    where id = any (array (select id from stopped))
    returning id
)
select coalesce(array_agg(id order by id), '{}') as ids
from waiting
