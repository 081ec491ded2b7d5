-- Changes a user.
-- $1 id, $2 grants or null to keep, $3 active or null to keep
update users
set grants = coalesce($2, grants), active = coalesce($3, active), updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = $1
returning id, name, grants, active, created_at, updated_at
