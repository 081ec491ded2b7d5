-- Does any job depend on this one?
-- $1 job id
select exists (select from dependencies where depends_on = $1) as children
