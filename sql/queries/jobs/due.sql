-- Makes jobs ready whose time has come.
-- $1 how many at most
with due as materialized (
    select id
    from jobs
    where not due and not_before <= clock_timestamp()
    order by not_before
    limit $1
    for no key update skip locked
)
update jobs
set due = true,
    updated_at = case
        when status in ('PENDING', 'BLOCKED') then greatest(clock_timestamp(), updated_at + interval '1 microsecond')
        else updated_at
    end
where id = any (array (select id from due))
returning project_id
