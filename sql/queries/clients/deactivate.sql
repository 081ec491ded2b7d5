-- Marks a client as gone.
-- $1 client id
update clients
set is_active = false
where id = $1
