-- What all servers on this database know, and nobody else.
--
-- With the secret they tell each other, in Redis, which keys they have verified. It opens nothing by itself.
create table fleet (
    only_row boolean primary key default true constraint fleet_only_row_check check (only_row),
    secret   bytea   not null
);

-- 244 random bits.
insert into fleet (secret) values (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
