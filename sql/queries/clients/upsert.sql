-- Registers a client, or refreshes the one that has this id; active again either way. Whose it is stays as it is.
-- $1 id, $2 name, $3 entity, $4 description or null, $5 available cpu, $6 available accelerators, $7 owning user or null, $8 owning key or null
insert into clients (id, name, entity, description, available_cpu, available_accelerators, owner_user, owner_key)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (id) do update
set name = excluded.name, entity = excluded.entity, description = excluded.description,
    available_cpu = excluded.available_cpu, available_accelerators = excluded.available_accelerators,
    last_heartbeat = clock_timestamp(), is_active = true
returning id, name, entity, description, available_cpu, available_accelerators, last_heartbeat, created_at, is_active
