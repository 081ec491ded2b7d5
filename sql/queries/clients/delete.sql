-- Forgets a client.
-- $1 client id
delete from clients
where id = $1
