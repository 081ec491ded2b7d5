-- Forgets what was answered long ago.
-- $1 age in seconds, $2 how many at most
delete from submissions
where ctid = any (array (
    select ctid
    from submissions
    where created_at < now() - make_interval(secs => $1)
    order by created_at
    limit $2
    for update skip locked
))
