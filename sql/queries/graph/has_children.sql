-- Does any job depend on one of these?
-- $1 job ids
select exists (select from dependencies where depends_on = any ($1::bigint[])) as children
