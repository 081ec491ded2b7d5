-- Forgets a client. What it runs is nobody's then: who registers the id anew has nothing to do with it.
-- $1 client id
with left_behind as (
    update attempts
    set client_id = null
    where client_id = $1 and ended_at is null and lease_seconds is not null
)
delete from clients
where id = $1
