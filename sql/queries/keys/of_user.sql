-- Makes a new version of each of a user's keys, because the user was changed.
-- $1 user id
update keys set version = version + 1, changed_at = clock_timestamp() where user_id = $1 returning id
