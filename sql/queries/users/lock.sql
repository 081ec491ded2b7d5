-- Keeps a user from being changed while a key is made for them; no row if there is none.
-- $1 id
select id from users where id = $1 for share
