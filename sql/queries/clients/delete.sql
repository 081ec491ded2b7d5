-- Forgets a client. What it runs is nobody's then: who registers the id anew has nothing to do with it. Its row must be locked by a statement before this one
-- (clients/deactivate.sql): who claims for it has it locked, and what is claimed while that is waited for is not seen by the statement that waits.
-- $1 client id
with held as materialized (
    select job_id, number
    from attempts
    where client_id = $1 and ended_at is null and lease_seconds is not null
    order by job_id
    for no key update
), left_behind as (
    update attempts
    set client_id = null
    from held
    where attempts.job_id = held.job_id and attempts.number = held.number
)
delete from clients
where id = $1
