-- Forgets a client. What it runs is nobody's then: who registers the id anew has nothing to do with it. Its row must be locked by a statement before this one
-- (clients/deactivate.sql): who claims for it has it locked, and what is claimed while that is waited for is not seen by the statement that waits.
-- $1 client id
with left_behind as (
    update attempts
    set client_id = null
    where client_id = $1 and ended_at is null and lease_seconds is not null
)
delete from clients
where id = $1
