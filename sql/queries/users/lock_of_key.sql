-- Keeps the user whose key it is, if it is somebody's, from being changed while a key is made for them.
-- $1 the key's id
select id from users where id = (select user_id from keys where id = $1) for share
